"""Server processes that tell their callers apart, with the tokens of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from processes import ServerProcess, server_process

from gradwire.client import connect
from gradwire.client.server import Server
from gradwire.server.trust.identity.tokens import change_tokens, new_token

LONG_AGO = datetime(2026, 1, 1, tzinfo=timezone.utc)
ADMIN = "ops"

MLP: dict[str, Any] = {
    "name": "mlp",
    "backend": "torch",
    "factory": {"path": "models:mlp", "args": {"dtype": "float32"}},
    "loss": "torch.nn.CrossEntropyLoss",
    "optimizer": {"path": "torch.optim.SGD", "args": {"lr": 0.01}},
    "input_shape": [6],
    "nb_classes": 4,
    "access": "trainer",
}
SUMS: dict[str, Any] = {
    # A black box, because torch takes seconds to import.
    "name": "sums",
    "backend": "blackbox",
    "factory": "owners:sums",
    "input_shape": [6],
    "nb_classes": 2,
    "access": "scores",
}


class Site(NamedTuple):
    """A server, its files, and everybody's tokens."""

    folder: Path
    server: ServerProcess
    tokens: Mapping[str, str]

    @property
    def address(self) -> str:
        return self.server.address

    def connect(self, principal: str = "", **settings: Any) -> Server:
        """As one of those who have a token, or as nobody."""
        return connect(self.address, token=self.tokens[principal] if principal else None, **settings)

    def write_grants(self, grants: Iterable[Mapping[str, Any]]) -> None:
        write_grants(self.folder, grants)


def write_grants(folder: Path, grants: Iterable[Mapping[str, Any]]) -> None:
    """At once, as another program should."""
    unfinished = folder / ".grants.yaml"
    unfinished.write_text(yaml.safe_dump(list(grants)))
    unfinished.replace(folder / "grants.yaml")


def write_tokens(path: Path, principals: Iterable[str], expired: Iterable[str] = ()) -> dict[str, str]:
    """A file of tokens, and the tokens; some of them are over."""
    made = {name: new_token(name, datetime.now(timezone.utc), None) for name in (*principals, *expired)}
    over = set(expired)
    held = [token.model_copy(update={"expires": LONG_AGO} if name in over else {}) for name, (_, token) in made.items()]
    change_tokens(path, lambda before: [*before, *held])
    return {name: text for name, (text, _) in made.items()}


@contextmanager
def site(
    folder: Path,
    models: list[dict[str, Any]],
    grants: Iterable[Mapping[str, Any]],
    principals: Iterable[str] = (),
    expired: Iterable[str] = (),
    **settings: Any,
) -> Iterator[Site]:
    """A server process; everybody named in ``principals`` and ``grants``, and the admin, has a token."""
    grants = list(grants)
    known = {ADMIN, *principals, *(grant["principal"] for grant in grants)} - set(expired)
    tokens = write_tokens(folder / "tokens.yaml", sorted(known), expired)
    write_grants(folder, grants)
    identity = {"tokens": "tokens.yaml", "admins": [ADMIN]}
    with server_process(folder, models, identity=identity, grants="grants.yaml", **settings) as server:
        yield Site(folder, server, tokens)


def in_a_day() -> datetime:
    return datetime.now(timezone.utc) + timedelta(days=1)
