"""The Unix socket that a server has for callers on its own host: same answers, and no way in for anybody else."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.status_pb2 import Status
from owners import sums
from processes import server_process

from gradwire.client import Retry, Server, connect
from gradwire.client.errors import CallTimeout, ShapeError, Unavailable
from gradwire.client.transport.same_host import SocketStream
from gradwire.client.transport.streams import Stream
from gradwire.server import serving
from gradwire.server.transport import same_host
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1 import transport_pb2, transport_pb2_grpc
from gradwire.v1.transport_pb2 import SameHostHello
from gradwire.wire.frames import open_field
from gradwire.wire.sockets import HEADER, HELLO, MESSAGE, STATUS, Peer, abstract

MODEL = {"backend": "blackbox", "factory": sums, "input_shape": [1024], "nb_classes": 2}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving({"m": MODEL}) as address:
        yield address


@pytest.fixture
def server(address: str) -> Iterator[Server]:
    with connect(address, retry=Retry(attempts=1)) as server:
        yield server


def rows(n: int) -> Any:
    return np.random.default_rng(n).random((n, 1024), np.float32)


def way(server: Server) -> type:
    stream = server.connection.open_stream("Predict")
    stream.close()
    return type(stream)


def socket_of(address: str) -> str:
    with grpc.insecure_channel(address) as channel:
        stub = transport_pb2_grpc.TransportServiceStub(channel)
        return str(stub.GetSameHost(transport_pb2.GetSameHostRequest()).socket)


def test_a_caller_on_this_host_takes_the_socket_unless_told_otherwise(address: str, server: Server) -> None:
    assert way(server) is SocketStream
    with connect(address, same_host=False) as plain:
        assert way(plain) is Stream


@pytest.mark.parametrize("n", [1, 100, 300, 20_000])
def test_both_ways_give_the_same_to_the_bit(address: str, server: Server, n: int) -> None:
    x = rows(n)
    with connect(address, same_host=False) as plain:
        np.testing.assert_array_equal(server.estimator("m").predict(x), plain.estimator("m").predict(x))


def test_large_answers_come_while_large_questions_go(address: str) -> None:
    def twice() -> Any:
        return lambda x: np.concatenate([x, x], axis=1)

    model = {"backend": "blackbox", "factory": twice, "input_shape": [1024], "nb_classes": 2048, "task": "regression"}
    with serving({"m": model}) as address, connect(address) as server:
        x = rows(30_000)  # 123 MB there and 246 MB back, and neither socket takes more than a part of a megabyte
        answer = server.estimator("m").predict(x)
        np.testing.assert_array_equal(answer[:, :1024], x)
        np.testing.assert_array_equal(answer[:, 1024:], x)


def test_errors_are_those_of_grpc_and_the_next_call_works(address: str, server: Server) -> None:
    opening = open_field(pb.PredictOpen(call=pb.CallHeader(model="m")).SerializeToString())
    with connect(address, same_host=False, retry=Retry(attempts=1)) as plain:
        told = []
        for way in (server, plain):
            with pytest.raises(ShapeError, match=r"expected \(n, 1024\)") as caught:
                way.connection.call("Predict", opening, [("x", rows(2)[:, :5])])
            told.append((str(caught.value), caught.value.field, caught.value.reason))
    assert told[0] == told[1]
    assert server.estimator("m").predict(rows(2)).shape == (2, 2)


def test_threads_get_their_own_rows(server: Server) -> None:
    remote, wrong = server.estimator("m"), []

    def work(n: int) -> None:
        for _ in range(50):
            x = rows(n)
            if not np.allclose(remote.predict(x)[:, 0], x.sum(1), rtol=1e-5):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3, 64, 400, 700)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_server_that_was_started_again_is_found_again(free_port: int) -> None:
    with connect(f"127.0.0.1:{free_port}", retry=Retry(attempts=50)) as server:
        for _ in range(2):
            with serving({"m": MODEL}, listen=f"127.0.0.1:{free_port}"):
                assert server.estimator("m").predict(rows(2)).shape == (2, 2)
                assert way(server) is SocketStream


def test_a_name_that_is_not_on_this_host_means_grpc(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As through a tunnel to another host."""
    monkeypatch.setattr("gradwire.client.transport.same_host.abstract", lambda name: "\0nobody")
    with connect(address) as server:
        assert server.estimator("m").predict(rows(2)).shape == (2, 2)
        assert way(server) is Stream


def test_another_users_process_is_turned_away(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_host, "peer_of", lambda connection: Peer(1, os.geteuid() + 1))
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(abstract(socket_of(address)))
        assert stranger.recv(1) == b""


def test_a_socket_of_another_user_is_not_talked_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradwire.client.transport.same_host.peer_of", lambda connection: Peer(1, os.geteuid() + 1))
    with connect(address) as server:
        assert server.estimator("m").predict(rows(2)).shape == (2, 2)
        assert way(server) is Stream


HELLO_PREDICT = SameHostHello(method="Predict", client="c").SerializeToString()


def frame(kind: int, payload: bytes) -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (frame(MESSAGE, b"no hello"), "is a hello with one of the methods"),
        (frame(HELLO, SameHostHello(method="Nothing").SerializeToString()), "is a hello with one of the methods"),
        (frame(HELLO, b"\xff\xff\xff"), "is a hello with one of the methods"),
        (struct.pack("<BI", HELLO, 0xFFFFFFFF), "max_message_bytes"),
        (frame(HELLO, HELLO_PREDICT) + frame(STATUS, b""), "a frame of kind 3"),
        (frame(HELLO, HELLO_PREDICT) + frame(200, b"x"), "a frame of kind 200"),
        (frame(HELLO, HELLO_PREDICT) + frame(MESSAGE, b"\xff\xff"), "are not a PredictRequest"),
        (frame(HELLO, HELLO_PREDICT) + frame(MESSAGE, b""), "the first message of a call is a PredictRequest with open"),
        (frame(HELLO, HELLO_PREDICT) + struct.pack("<BI", MESSAGE, (5 << 20) + 1), "max_message_bytes"),
    ],
)
def test_frames_that_make_no_sense_are_answered_and_the_server_lives(address: str, server: Server, sent: bytes, told: str) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(10)
        caller.connect(abstract(socket_of(address)))
        # Byte by byte at first, because a frame may come in any pieces.
        for at in range(min(3, len(sent))):
            caller.sendall(sent[at : at + 1])
            time.sleep(0.01)
        caller.sendall(sent[3:])
        answer = b""
        while piece := caller.recv(65536):
            answer += piece
    kind, length = HEADER.unpack_from(answer)
    status = Status.FromString(answer[HEADER.size :])
    assert (kind, length) == (STATUS, len(answer) - HEADER.size)
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert told in status.message
    assert server.estimator("m").predict(rows(1)).shape == (1, 2)


def test_callers_who_hang_up_anywhere_cost_nothing(address: str, server: Server) -> None:
    whole = frame(HELLO, HELLO_PREDICT) + frame(MESSAGE, bytes(100_000))
    for end in (0, 3, 5, 20, 40, 70_000, 100_000):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(abstract(socket_of(address)))
            caller.sendall(whole[:end])
    assert server.estimator("m").predict(rows(1)).shape == (1, 2)


def test_who_says_nothing_is_hung_up_on(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_host, "_HELLO_TIMEOUT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(10)
        caller.connect(abstract(socket_of(address)))
        assert caller.recv(1) == b""


def listed(name: str) -> bool:
    return name in Path("/proc/net/unix").read_text()


def test_a_server_that_dies_in_the_middle_of_a_call_is_noticed_and_leaves_nothing(tmp_path: Path) -> None:
    model = {"name": "m", "backend": "blackbox", "factory": "owners:suicidal", "input_shape": [4], "nb_classes": 2}
    with server_process(tmp_path, [model]) as process, connect(process.address, retry=Retry(attempts=1)) as server:
        name = socket_of(process.address)
        remote = server.estimator("m")
        assert remote.predict(np.ones((1, 4))).shape == (1, 2)
        assert listed(name)
        began_s = time.monotonic()
        with pytest.raises(Unavailable, match="the server closed the connection"):
            remote.predict(-np.ones((1, 4)))
        assert time.monotonic() - began_s < 5
        process.process.wait(10)
        assert not listed(name)


def test_a_server_that_hangs_is_not_waited_for_beyond_the_timeout(tmp_path: Path) -> None:
    model = {"name": "m", "backend": "blackbox", "factory": "owners:sums", "input_shape": [4], "nb_classes": 2}
    with server_process(tmp_path, [model]) as process:
        with connect(process.address, retry=Retry(attempts=1), timeout_s=0.5) as server:
            remote = server.estimator("m")
            assert remote.predict(np.ones((1, 4))).shape == (1, 2)
            process.signal(signal.SIGSTOP)
            began_s = time.monotonic()
            with pytest.raises(CallTimeout):
                remote.predict(np.ones((1, 4)))
            assert time.monotonic() - began_s < 3
            process.signal(signal.SIGCONT)
            assert remote.predict(np.ones((1, 4))).shape == (1, 2)


def test_a_client_that_dies_in_the_middle_of_a_call_costs_nothing(address: str) -> None:
    """Drops the client's computation and its connection."""
    whole = frame(HELLO, HELLO_PREDICT) + frame(MESSAGE, b"")[:4]
    before = socket_count()
    callers = []
    for _ in range(50):
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(abstract(socket_of(address)))
        caller.sendall(whole)
        callers.append(caller)
    for caller in callers:
        caller.close()
    end_s = time.monotonic() + 5
    while socket_count() > before + 5:
        assert time.monotonic() < end_s, (before, socket_count())
        time.sleep(0.05)


def socket_count() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("same_host", [True, False])
@pytest.mark.parametrize("timeout_s", [None, 30.0])
def test_closing_a_connection_ends_its_calls(timeout_s: float | None, same_host: bool) -> None:
    model = {"backend": "blackbox", "factory": lambda: waits, "input_shape": [1], "nb_classes": 2}
    way: dict[str, Any] = {"retry": Retry(attempts=1), "timeout_s": timeout_s, "same_host": same_host}
    with serving({"m": model}) as address, connect(address, **way) as server:
        remote, ended = server.estimator("m"), []

        def call() -> None:
            began_s = time.monotonic()
            with pytest.raises(Unavailable):
                remote.predict(np.ones((1, 1)))
            ended.append(time.monotonic() - began_s)

        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(0.3)
        server.close()
        thread.join(10)
        assert ended
        assert ended[0] < 1.5
        assert remote.predict(np.zeros((1, 1))).shape == (1, 2)


def waits(x: Any) -> Any:
    """Two seconds, if the first input is positive."""
    time.sleep(2.0 * float(x[0, 0] > 0))
    return np.full((len(x), 2), 0.5)
