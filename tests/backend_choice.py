"""Tests of some backends: which backend a test belongs to, and which tests one process has."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conformance.servers import SERVERS, server_of
from frameworks import TESTS
from xdist.scheduler import LoadScopeScheduling

BACKENDS = tuple(backend for backends in SERVERS.values() for backend in backends)
_IN_AN_ID = re.compile(rf"[\[-]({'|'.join(sorted(BACKENDS, key=len, reverse=True))})(?=[\]-])")
SLOW = (
    *("test_soak", "engines/test_ray.py", "client/test_pythons.py", "fuzz/test_targets.py", "conformance/", "backends/tensorflow"),
    *("backends/jax", "trust/test_leaks.py", "client/test_load.py", "backends/torch/test_compile.py", "deploy/"),
)
"""Minutes of a run, longest first: at the end, everything else would wait for them."""


def backends_of(item: pytest.Item) -> frozenset[str]:
    """The backends that a test is of: its folder's, and those that its parameters name, as `torch` and `torch-cnn` do."""
    parts = item.path.relative_to(TESTS).parts
    found = {part for part in parts[1:-1] if parts[0] == "backends" and part in BACKENDS}
    if isinstance(item, pytest.Function):
        params = item.callspec.params.values() if hasattr(item, "callspec") else ()
        found |= {value.partition("-")[0] for value in params if isinstance(value, str)} & {*BACKENDS}
        if parts[0] == "conformance" and "server" in item.fixturenames and not found:
            found.add("torch")
    return frozenset(found)


def chosen(option: str) -> frozenset[str]:
    """The backends that ``--backend`` names."""
    names = frozenset(name for name in option.split(",") if name)
    if unknown := names - {*BACKENDS}:
        raise pytest.UsageError(f"--backend: no such backend: {', '.join(sorted(unknown))}; there are {', '.join(BACKENDS)}")
    return names


def order(item: pytest.Item) -> int:
    """Sort key of a test: slow files first."""
    return next((place for place, name in enumerate(SLOW) if name in item.nodeid), len(SLOW))


def scope(test: str) -> str:
    """Group of tests that one process runs: a file, or the conformance tests of one server."""
    path = test.partition("::")[0]
    if "conformance/" not in path:
        return path
    found = _IN_AN_ID.search(test)
    return f"conformance {server_of(found[1] if found else 'torch')}"


class ByFramework(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process few frameworks to import and few servers to start."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        # In the order of collection, which is longest first.
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)
