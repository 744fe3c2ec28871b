"""Servers are killed in the middle of everything; what comes after them finds everything in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import ServerProcess

from gradwire.client.errors import Unavailable

from .background import Background
from .owners import Gate
from .site import ONCE, PATIENT, ROW, Site, black_box, check_consistency, torch_net

BUDGET = 1000
SEVEN = np.repeat(ROW, 7, axis=0)
Y = np.zeros(40, np.int64)


def killed(server: ServerProcess) -> None:
    server.signal(signal.SIGKILL)
    server.process.wait()


@pytest.mark.parametrize(("kind", "lease_rows"), [("SQLite", 1), ("SQLite", 100), ("PostgreSQL", 1)])
def test_a_call_between_its_charge_and_its_answer_is_answered_by_the_next_server_for_the_same_charge(
    kind: str, lease_rows: int, tmp_path: Path, free_port: int, request: Any
) -> None:
    gate = Gate(tmp_path)
    store = request.getfixturevalue("postgres").new() if kind == "PostgreSQL" else None
    models = [black_box("sums", "sums", gate=str(tmp_path))]
    settings = {"lease_rows": lease_rows, "listen": f"127.0.0.1:{free_port}"}
    site = Site(tmp_path, models, {("alice", "sums"): {"forward": BUDGET}}, store, settings)
    with site.serve("first") as first, site.connect(first.address, "alice", retry=PATIENT) as alice:
        remote = alice.estimator("sums")
        remote.predict(ROW)
        assert alice.usage("sums")[0].forward == 1
        gate.close()
        call = Background(lambda: remote.predict(SEVEN))
        gate.wait()
        killed(first)
        gate.open()
        with site.serve("second") as second:
            np.testing.assert_allclose(call.end().result, [[6, -6]] * 7)
            # Of the lease, what it had not used.
            check_consistency(site, second.address, lost=0 if lease_rows == 1 else 99)
            left = alice.usage("sums")[0].left_forward
            assert left == BUDGET - 8 if lease_rows == 1 else BUDGET - 8 - 99 <= left < BUDGET - 8
            if lease_rows == 1:
                with site.opened() as opened:
                    assert opened.taken("alice", "sums", None, 0.0).total.forward == 8


class Respawning:
    """A server that is there again after it was killed."""

    def __init__(self, start: Callable[[], AbstractContextManager[ServerProcess]]) -> None:
        self._start = start
        self._running = ExitStack()
        self.server: ServerProcess | None = None

    def running(self) -> ServerProcess:
        if self.server is None or self.server.process.poll() is not None:
            self._running.close()
            self.server = self._running.enter_context(self._start())
        return self.server

    def close(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("killed")
    return Site(folder, [torch_net("net", folder)], {("alice", "net"): {"forward": BUDGET}}, settings={"lease_rows": 1})


@pytest.fixture(scope="module")
def respawning(site: Site) -> Iterator[Respawning]:
    there = Respawning(site.serve)
    yield there
    there.close()


@pytest.mark.parametrize("operation", ["fit", "save", "restore", "loss_gradient"])
def test_whatever_the_server_was_killed_in_the_model_and_its_versions_are_whole(
    operation: str, site: Site, respawning: Respawning
) -> None:
    gate = Gate(site.folder)
    x = np.random.default_rng(0).uniform(-1, 1, (40, 6)).astype(np.float32)
    server = respawning.running()
    with site.connect(server.address, "alice", retry=ONCE) as alice:
        remote = alice.estimator("net")
        initial = remote.predict(ROW)
        if "kept" not in [version.name for version in remote.versions()]:
            remote.fit(x, Y, batch_size=8, nb_epochs=1)
            remote.save("kept")
        remote.restore("kept")
        kept = remote.predict(ROW)
        remote.reset()
        alice.usage("net")
        gate.close()
        calls: dict[str, Callable[[], Any]] = {
            "fit": lambda: remote.fit(x, Y, batch_size=8, nb_epochs=5),
            "save": lambda: remote.save("half"),
            "restore": lambda: remote.restore("kept"),
            "loss_gradient": lambda: remote.loss_gradient(x, Y),
        }
        call = Background(calls[operation])
        gate.wait()
        killed(server)
        assert isinstance(call.end().error, Unavailable)
    gate.open()
    server = respawning.running()
    # Rows are charged by themselves, and only those that were being computed are lost.
    lost = 40 if operation == "loss_gradient" else 0
    check_consistency(site, server.address, lost=lost)
    with site.connect(server.address, "alice") as alice:
        remote = alice.estimator("net")
        assert [version.name for version in remote.versions()] == ["kept"]
        np.testing.assert_array_equal(remote.predict(ROW), initial)
        remote.restore("kept")
        np.testing.assert_array_equal(remote.predict(ROW), kept)
        remote.reset()
