"""One server of all cases, over a real socket, for the whole run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conformance.cases import CASES, Case, served

from gradwire.client import RemoteEstimator, Server, connect
from gradwire.server import serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving(served()) as address, connect(address) as connection:
        yield connection


@pytest.fixture(params=list(CASES))
def name(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def case(name: str) -> Case:
    return CASES[name]


@pytest.fixture
def remote(server: Server, name: str) -> RemoteEstimator:
    return server.estimator(name)
