"""Fixtures and options for tests of several folders."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import backend_choice
import hypothesis
import needs
import placeholders
import programs
import pytest
import watch

from gradwire.client.transport import same_host

# What pytest makes of a test file is kept, whatever the environment says: to make it takes longer than to collect its tests.
sys.dont_write_bytecode = False

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("gradwire", deadline=None)
hypothesis.settings.load_profile("gradwire")


@pytest.fixture
def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module", params=["same host", "gRPC"])
def transport(request: Any) -> Iterator[str]:
    """Both ways to a server on this host: a module that uses this runs over each, as on systems that have only the second."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "gRPC":
            patch.setattr(same_host, "supported", lambda: False)
        yield str(request.param)


@pytest.fixture(autouse=True)
def _stays_quick(request: pytest.FixtureRequest) -> Iterator[None]:
    """A run of quick tests holds them to it."""
    yield
    if (broken := watch.broken()) and request.node.get_closest_marker(needs.QUICK):
        pytest.fail(f"a quick test must not do this: {', '.join(broken)}. Let tests/needs.py see it", pytrace=False)


def pytest_configure(config: pytest.Config) -> None:
    for name, text in needs.MARKS.items():
        config.addinivalue_line("markers", f"{name}: {text}")
    config.addinivalue_line("markers", "program(name): runs a program of the system")
    if config.option.markexpr == needs.QUICK:
        watch.begin()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", default="", help="run the tests of these backends only, e.g. torch,sklearn")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return backend_choice.ByFramework(config, log) if config.option.dist == "load" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if backends := backend_choice.chosen(config.option.backend):
        kept = [item for item in items if backend_choice.backends_of(item) & backends]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept
    items.sort(key=backend_choice.order)
    if config.option.markexpr:
        for item in items:
            needs.mark(item)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("program"):
        programs.need(*marker.args)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Names the packages that would have more tests run."""
    skipped = terminalreporter.stats.get("skipped", [])
    for line in programs.advice(report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)):
        terminalreporter.write_line(line, yellow=True)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    return placeholders.makes_module(module_path, parent)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    # Before anything looks at the clock. A quick test uses nothing of what its file imports of frameworks.
    if not item.get_closest_marker(needs.QUICK):
        placeholders.make_real(item)
    watch.broken()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    # Nothing of what collection makes is garbage: looking for some takes a tenth of its time.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
