"""A connection: threads, forks, pickles, copies, TLS, tokens, renewal."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from owners import sums

from gradwire.client import RemoteEstimator, Renewal, Server, connect
from gradwire.client.errors import GradwireError, InvalidCall, Unavailable
from gradwire.server import serving
from gradwire.v1 import model_pb2, model_pb2_grpc

pytestmark = pytest.mark.usefixtures("transport")

MODEL = {"backend": "blackbox", "factory": sums, "input_shape": [4], "nb_classes": 2}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving({"sums": MODEL}) as address:
        yield address


@pytest.fixture
def server(address: str) -> Iterator[Server]:
    with connect(address) as server:
        yield server


def rows(seed: int, n: int = 3) -> Any:
    return np.random.default_rng(seed).random((n, 4), np.float32)


def assert_sums(remote: RemoteEstimator, seed: int, n: int = 3) -> None:
    x = rows(seed, n)
    np.testing.assert_allclose(remote.predict(x)[:, 0], x.sum(1), rtol=1e-6)


def test_threads_share_a_connection_and_get_their_own_rows(server: Server) -> None:
    remote = server.estimator("sums")
    wrong: list[Exception] = []

    def work(thread: int) -> None:
        try:
            for i in range(100):
                assert_sums(remote, 1000 * thread + i, 1 + i % 5)
        except Exception as e:
            wrong.append(e)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def child(remote: RemoteEstimator, seed: int, answer: Any) -> None:
    try:
        assert_sums(remote, seed)
        answer.put("right")
    except BaseException as e:
        answer.put(repr(e))


FORK = """
import multiprocessing, sys
sys.path.insert(0, sys.argv[2])
from test_connection import assert_sums, child
from gradwire.client import connect
remote = connect(sys.argv[1]).estimator("sums")
assert_sums(remote, 0)
context = multiprocessing.get_context("fork")
for seed in range(3):
    answer = context.Queue()
    process = context.Process(target=child, args=(remote, seed, answer))
    process.start()
    assert answer.get(timeout=20) == "right"
    process.join()
    assert_sums(remote, seed)
print("right")
"""


def test_a_forked_child_connects_anew_and_the_parent_goes_on(address: str) -> None:
    # In a process of its own: this one has a server in it, whose threads no fork survives.
    folder = str(Path(__file__).parent)
    path = f"{folder}:{Path(folder).parent}"
    done = subprocess.run(
        [sys.executable, "-c", FORK, address, folder], capture_output=True, text=True, timeout=60, env={"PYTHONPATH": path}
    )
    assert done.stdout.strip() == "right", done.stderr


def test_an_estimator_can_be_sent_to_another_process(server: Server) -> None:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=child, args=(server.estimator("sums"), 5, answer))
    process.start()
    assert answer.get(timeout=60) == "right"
    process.join()


def test_pickles_and_copies_work_and_keep_their_settings(server: Server) -> None:
    remote = server.estimator("sums")
    remote.set_params(clip_values=(-1.0, 2.0))
    for other in (pickle.loads(pickle.dumps(remote)), copy.deepcopy(remote), copy.copy(remote)):
        assert_sums(other, 1)
        np.testing.assert_array_equal(other.clip_values, [-1.0, 2.0])
    changed = copy.deepcopy(remote)
    changed.set_params(clip_values=(0.0, 1.0))
    np.testing.assert_array_equal(remote.clip_values, [-1.0, 2.0])


def test_a_closed_connection_opens_again_when_it_is_used(address: str) -> None:
    server = connect(address)
    remote = server.estimator("sums")
    assert_sums(remote, 1)
    server.close()
    assert_sums(remote, 2)
    server.close()
    server.close()


def test_streams_are_renewed_without_anybody_noticing(address: str) -> None:
    with connect(address, renewal=Renewal(calls=3, seconds=60)) as server:
        remote = server.estimator("sums")
        for seed in range(10):
            assert_sums(remote, seed)
    with connect(address, renewal=Renewal(calls=10_000, seconds=0.0)) as server:
        remote = server.estimator("sums")
        for seed in range(3):
            assert_sums(remote, seed)


def test_an_error_ends_its_stream_and_not_the_connection(server: Server) -> None:
    remote = server.estimator("sums")
    for seed in range(5):
        with pytest.raises(GradwireError):
            remote.get_activations(rows(0), 0)
        with pytest.raises(InvalidCall):
            remote.predict(np.zeros((1, 5)))
        assert_sums(remote, seed)


def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    with serving({"sums": MODEL}, listen=f"unix:{tmp_path}/gradwire.sock") as address, connect(address) as server:
        assert address.startswith("unix:")
        assert_sums(server.estimator("sums"), 1)
        assert_sums(server.estimator("sums"), 1, 200_000)


def make_certificate(folder: Path) -> None:
    """A certificate for loopback, and the authority that it is trusted by."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))


def test_tls_is_trusted_by_the_file_that_is_named_and_by_no_other(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    pair = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    with serving({"sums": MODEL}, tls=pair) as address:
        with connect(address, tls=tmp_path / "ca.pem") as server:
            assert_sums(server.estimator("sums"), 1)
            assert_sums(pickle.loads(pickle.dumps(server.estimator("sums"))), 2)
        for wrong in (None, True):
            with connect(address, tls=wrong) as server, pytest.raises(Unavailable):
                server.models()


class Recorder(model_pb2_grpc.ModelServiceServicer):
    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.seen.append(dict(context.invocation_metadata()))
        return model_pb2.ListModelsResponse()


def test_a_token_travels_with_every_call() -> None:
    recorder = Recorder()
    backend = grpc.server(futures.ThreadPoolExecutor(1))
    model_pb2_grpc.add_ModelServiceServicer_to_server(recorder, backend)
    port = backend.add_insecure_port("127.0.0.1:0")
    backend.start()
    with connect(f"127.0.0.1:{port}", token="secret") as server:
        server.models()
        assert "secret" not in repr(server)
    with connect(f"127.0.0.1:{port}") as server:
        server.models()
    backend.stop(0).wait()
    assert recorder.seen[0]["authorization"] == "Bearer secret"
    assert "authorization" not in recorder.seen[1]


def test_a_token_is_not_sent_in_the_clear_to_another_host() -> None:
    with pytest.raises(InvalidCall, match="tls"):
        connect("gpu-node.example:50051", token="secret")


def test_the_client_loads_numpy_grpc_and_protobuf_and_nothing_heavy() -> None:
    code = "import sys, gradwire.client; print(' '.join(sorted({m.partition('.')[0] for m in sys.modules})))"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert {"numpy", "grpc", "google"} <= loaded
    assert not loaded & {"torch", "art", "sklearn", "scipy", "typer", "rich", "pydantic", "yaml", "matplotlib", "tensorflow", "jax"}
