"""A store, its callers and what they were granted; the servers that share them; and what must hold after every fault."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from processes import ServerProcess, server_process
from typer.testing import CliRunner

from gradwire.client import Retry, Server, connect
from gradwire.server.commands.token import app
from gradwire.server.store import Store
from gradwire.server.values.rows import Rows

ROW = np.ones((1, 6), np.float32)
OPS = "ops"
"""The admin, who may do everything with every model and whose rows nobody counts."""
ONCE = Retry(attempts=1)
PATIENT = Retry(attempts=100, first_delay_s=0.05, factor=1.0)


def black_box(name: str, factory: str, **arguments: Any) -> dict[str, Any]:
    path = {"path": f"faults.owners:{factory}", "args": arguments}
    return {"name": name, "backend": "blackbox", "factory": path, "input_shape": [6], "nb_classes": 2, "access": "trainer"}


def torch_net(name: str, gate: Path) -> dict[str, Any]:
    path = {"path": "faults.torch_owners:Gated", "args": {"gate": str(gate)}}
    return {"name": name, "backend": "torch", "factory": path, "input_shape": [6], "nb_classes": 3, "access": "trainer",
            "loss": "torch.nn.CrossEntropyLoss", "optimizer": {"path": "torch.optim.SGD", "args": {"lr": 0.1}}}  # fmt: skip


@dataclass
class Site:
    """A store and a state folder, and the servers that share them.

    Attributes:
        folder: Everything is in it.
        models: Entries of the configuration.
        budgets: Rows forward, by principal and model; all other principals are not limited.
        store: The URL; None: SQLite in ``folder``.
        settings: Other keys of every server's configuration.
    """

    folder: Path
    models: list[dict[str, Any]]
    budgets: dict[tuple[str, str], dict[str, Any]]
    store: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    state_dir: Path = Path("state")

    def __post_init__(self) -> None:
        self.state_dir = self.folder / self.state_dir
        self.store = self.store or f"sqlite:///{self.state_dir}/gradwire.db"
        tokens = self.folder / "tokens.yaml"
        self.tokens = {principal: _new_token(tokens, principal) for principal in {OPS: 0, **{p: 0 for p, _ in self.budgets}}}
        every = {"access": "trainer", "activations": True}
        grants: list[dict[str, Any]] = [{"principal": OPS, "model": model["name"], **every} for model in self.models]
        grants += [{"principal": p, "model": m, **every, "budget": budget} for (p, m), budget in self.budgets.items()]
        (self.folder / "grants.yaml").write_text(yaml.safe_dump(grants))

    @contextmanager
    def serve(self, name: str = "server", **settings: Any) -> Iterator[ServerProcess]:
        """A server process, as long as the context lasts."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        own = {
            "identity": {"tokens": str(self.folder / "tokens.yaml"), "admins": [OPS]},
            "grants": str(self.folder / "grants.yaml"),
            "state_dir": str(self.state_dir),
            "store": self.store,
        }
        with server_process(folder, self.models, **{**own, **self.settings, **settings}) as server:
            yield server

    def connect(self, address: str, principal: str = OPS, **settings: Any) -> Server:
        return connect(address, token=self.tokens[principal], **settings)

    def calls(self) -> list[Any]:
        """The ledger."""
        with self.opened() as store:
            return [call for batch in store.calls() for call in batch]

    def opened(self) -> Store:
        assert self.store is not None
        return Store.open(self.store, create=False)


def check_consistency(site: Site, *addresses: str, lost: int | dict[tuple[str, str], int] = 0) -> None:
    """Checks the invariants after a fault, in the store and through every running server, while no call runs.

    - No budget is exceeded, and none is short by more than ``lost`` rows: those of leases and calls of servers that were killed.
    - Usage is the sum of the ledger, and what servers say of it is what the store holds.
    - Nothing is left of versions that were not finished; all others can be restored.
    - The next call works.

    Args:
        site: What is looked at.
        addresses: Of all servers that run on it.
        lost: At most so many rows of each budget, or of those that are named.
    """
    with site.opened() as store:
        told = _settled_view(site, store, addresses)
        sums: dict[tuple[str, str], Rows] = {}
        for batch in store.calls():
            for call in batch:
                key = (call.principal, call.model)
                sums[key] = sums.get(key, Rows()) + Rows(call.forward, call.backward)
        used = {(usage.principal, usage.model): usage.rows for usage in store.usage()}
        assert used == sums
        for key, budget in site.budgets.items():
            if "forward" not in budget:
                continue
            taken = store.taken(*key, None, 0.0).total.forward
            mine = used.get(key, Rows()).forward
            most = lost if isinstance(lost, int) else lost.get(key, 0)
            left = budget["forward"] - taken
            assert left >= 0, f"{key} has taken {taken} rows of {budget['forward']}"
            held = sum(view[key].left_forward - left for view in told)
            missing = taken - held - mine
            assert 0 <= missing <= most, f"{key}: {taken} rows are taken, {held} held, {mine} used; at most {most} may be lost"
            for view in told:
                assert view[key].forward == mine
    for address in addresses:
        _check_serving(site, address)


def _settled_view(site: Site, store: Store, addresses: Sequence[str]) -> list[dict[tuple[str, str], Any]]:
    """Usage by every server at one moment: read again until the first and the last agree."""
    servers = [site.connect(address, retry=PATIENT) for address in addresses]
    end_s = time.monotonic() + 30
    before: Any = None
    while True:
        told = [{(u.principal, u.model): u for u in server.usage(everybody=True)} for server in servers]
        if told == before:
            break
        assert time.monotonic() < end_s, "it does not settle"
        before = told
        time.sleep(0.05)
    for server in servers:
        server.close()
    return told


def _check_serving(site: Site, address: str) -> None:
    with site.connect(address, retry=PATIENT) as server:
        for model in site.models:
            remote = server.estimator(model["name"])
            before = remote.predict(ROW)
            assert np.isfinite(before).all()
            if model["backend"] != "torch":
                continue
            folder = site.state_dir / "versions" / model["name"]
            versions = [version.name for version in remote.versions()]
            for version in versions:
                remote.restore(version)
                assert np.isfinite(remote.predict(ROW)).all()
            if versions:
                remote.reset()
            if folder.is_dir():
                assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == set(versions)


def _new_token(file: Path, principal: str) -> str:
    ended = CliRunner().invoke(app, ["new", principal, "--file", str(file)])
    assert ended.exit_code == 0, ended.output
    return ended.stdout.strip()
