"""Servers of all cases, over real sockets, for the whole run: in this process, and in one of each other environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conformance.cases import CASES, Case, served
from conformance.servers import servers

from gradwire.client import RemoteEstimator, Server


@pytest.fixture(scope="session")
def server_with(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """``server_with(backend)``: the server that has its cases."""
    with servers(tmp_path_factory.mktemp("cases"), served) as connected:
        yield connected


@pytest.fixture(scope="session")
def server(server_with: Callable[[str], Server]) -> Server:
    """The server of torch's cases, scikit-learn's, GPy's and those without a framework."""
    return server_with("torch")


@pytest.fixture(params=list(CASES))
def name(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def case(name: str) -> Case:
    return CASES[name]


@pytest.fixture
def remote(server_with: Callable[[str], Server], case: Case, name: str) -> RemoteEstimator:
    return server_with(case.backend).estimator(name)
