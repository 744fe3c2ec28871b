"""Servers of all cases, over real sockets, for the whole run: one in this process, and one in each other environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conformance.cases import CASES, Case, served
from environments import MXNET, python_of
from processes import server_process

from gradwire.client import RemoteEstimator, Server, connect
from gradwire.server import serving


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with serving(served()) as address, connect(address) as connection:
        yield connection


@pytest.fixture(scope="session")
def mxnet_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = [{"name": name, **model} for name, model in served(MXNET).items()]
    with server_process(tmp_path_factory.mktemp(MXNET), models, python=python_of(MXNET)) as process:
        with connect(process.address) as connection:
            yield connection


@pytest.fixture(scope="session")
def servers(server: Server, mxnet_server: Server) -> dict[str, Server]:
    """By environment; the tests' own is "" as in a case."""
    return {"": server, MXNET: mxnet_server}


@pytest.fixture(params=list(CASES))
def name(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def case(name: str) -> Case:
    return CASES[name]


@pytest.fixture
def remote(request: Any, case: Case, name: str) -> RemoteEstimator:
    # Not `servers`: a run of some cases starts what these need.
    server: Server = request.getfixturevalue(f"{case.environment}_server" if case.environment else "server")
    return server.estimator(name)
