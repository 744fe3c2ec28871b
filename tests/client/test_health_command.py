"""``gradwire health``, as probes and scripts use it."""

from __future__ import annotations

import signal
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from commands import gradwire
from processes import server_process

from gradwire.client import connect
from gradwire.client.commands.health import state_of
from gradwire.client.errors import Unavailable
from gradwire.server import serving


def first_two() -> Any:
    return lambda x: x[:, :2]


OWN = {"backend": "blackbox", "factory": first_two, "input_shape": [3], "nb_classes": 2}


def test_a_server_and_its_models_are_said_to_serve() -> None:
    with serving({"digits": OWN}) as address:
        ended = gradwire("health", address)
        assert (ended.returncode, ended.stdout) == (0, f"{address} is SERVING\n")
        ended = gradwire("health", address, "--service", "digits", "--quiet")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_model_that_is_not_there_is_1_and_named() -> None:
    with serving({"digits": OWN}) as address:
        ended = gradwire("health", address, "--service", "letters")
        assert (ended.returncode, ended.stderr) == (1, f"error 'letters' at {address} is SERVICE_UNKNOWN\n")


def test_where_nobody_answers_it_is_3(free_port: int) -> None:
    ended = gradwire("health", f"127.0.0.1:{free_port}", "--timeout", "2")
    assert ended.returncode == 3
    assert "no gradwire server answers" in ended.stderr


def test_what_cannot_be_asked_is_2(tmp_path: Path) -> None:
    ended = gradwire("health", "127.0.0.1:1", "--tls", str(tmp_path / "none.pem"))
    assert ended.returncode == 2
    assert "none.pem" in ended.stderr


def test_another_grpc_server_is_told_apart() -> None:
    other = grpc.server(futures.ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with connect(f"127.0.0.1:{port}") as server, pytest.raises(Unavailable, match=r"lacks grpc\.health\.v1"):
        state_of(server, "")
    other.stop(0).wait()


def test_it_needs_no_token_and_takes_tls(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    own = ca.issue_cert("127.0.0.1", "localhost")
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "server.pem"))
    own.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    assert gradwire("token", "new", "alice", "--file", str(tmp_path / "tokens.yaml")).returncode == 0
    tls = {"certificate": str(tmp_path / "server.pem"), "key": str(tmp_path / "key.pem")}
    with serving({"digits": OWN}, tls=tls, identity={"tokens": str(tmp_path / "tokens.yaml")}) as address:
        assert gradwire("health", address, "--tls", str(tmp_path / "ca.pem"), "--service", "digits").returncode == 0
        assert gradwire("health", address, "--timeout", "2").returncode == 3


SLOW = """
import time

def slow():
    def answer(x):
        time.sleep(8)
        return x[:, :2]
    return answer
"""


def test_a_server_that_drains_is_gone_for_callers_and_not_serving_for_probes(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "slow_model.py").write_text(SLOW)
    model = {"name": "slow", "backend": "blackbox", "factory": "slow_model:slow", "input_shape": [3], "nb_classes": 2}
    probed = f"127.0.0.1:{free_port}"
    with (
        server_process(tmp_path, [model], health_listen=probed) as server,
        connect(server.address) as client,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(client.estimator("slow").predict, [[1.0, 2.0, 3.0]])
        assert gradwire("health", server.address).returncode == 0
        assert not answer.done()
        server.signal(signal.SIGTERM)
        ended = gradwire("health", probed)
        assert (ended.returncode, ended.stderr) == (1, f"error {probed} is NOT_SERVING\n")
        assert gradwire("health", server.address).returncode == 3
        assert not answer.done()
        assert answer.result().shape == (1, 2)
        assert server.process.wait(30) == 0
        assert gradwire("health", server.address).returncode == 3
