"""What tests of several folders use."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import placeholders
import pytest

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take minutes begin first: at the end everybody else would wait for them."""
    items.sort(key=lambda item: "test_soak" not in item.nodeid and "test_ray.py" not in item.nodeid)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    return placeholders.makes_module(module_path, parent)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    # Before anything looks at the clock.
    placeholders.make_real(item)
    return (yield)
