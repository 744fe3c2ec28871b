"""Large calls on one host go through memory that both sides share: same bytes, bounded, and checked by both."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.status_pb2 import Status

from gradwire.client import Retry, Server, connect
from gradwire.client.transport import same_host as client_side
from gradwire.client.transport.same_host import SocketStream
from gradwire.server import serving
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1 import transport_pb2, transport_pb2_grpc
from gradwire.v1.transport_pb2 import SameHostHello
from gradwire.wire import shared
from gradwire.wire.frames import CHUNK_NBYTES, first_message, in_messages, open_field
from gradwire.wire.shared import OFFER, PLACE, SLOT, SLOTS, Segment
from gradwire.wire.sockets import FREED, HEADER, HELLO, MESSAGE, SHARE, SHARED, STATUS, abstract

WIDTH = 4096


def negated() -> Callable[[Any], Any]:
    return lambda x: -x


MODEL = {"backend": "blackbox", "factory": negated, "input_shape": [WIDTH], "nb_classes": WIDTH, "task": "regression"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving({"m": MODEL}, limits={"stall_timeout_s": 2.0}) as address:
        yield address


@pytest.fixture
def server(address: str) -> Iterator[Server]:
    with connect(address, retry=Retry(attempts=1)) as server:
        yield server


def rows(n: int) -> Any:
    return np.random.default_rng(n).random((n, WIDTH), np.float32)


def open_files() -> int:
    return sum(os.path.islink(f"/proc/self/fd/{n}") and "memfd:gradwire" in os.readlink(f"/proc/self/fd/{n}") for n in _numbers())


def mapped() -> int:
    with open("/proc/self/maps") as maps:
        return sum("memfd:gradwire" in line for line in maps)


def _numbers() -> list[str]:
    return os.listdir("/proc/self/fd")


# 2 rows are as much as goes with a message, and 64 a chunk: these are around both, more than the slots, and no multiple of them.
@pytest.mark.parametrize("n", [1, 2, 3, 63, 64, 65, 128, 64 * SLOTS, 64 * SLOTS + 1, 3001])
def test_every_size_comes_back_whole(server: Server, n: int) -> None:
    x = rows(n)
    remote = server.estimator("m")
    for _ in range(3):
        np.testing.assert_array_equal(remote.predict(x), -x)


def test_large_calls_share_memory_and_small_ones_do_not(address: str) -> None:
    with connect(address) as server:
        remote = server.estimator("m")
        remote.predict(rows(2))
        (stream,) = server.connection._idle["Predict", "m"]
        assert isinstance(stream, SocketStream)
        assert stream._segment is None
        remote.predict(rows(3))
        assert isinstance(stream._segment, Segment)
        remote.predict(rows(2))
        assert list(server.connection._idle["Predict", "m"]) == [stream]


def test_large_answers_to_small_questions_share_memory_from_the_second_on(address: str) -> None:
    def wide() -> Callable[[Any], Any]:
        return lambda x: np.repeat(x, 1 << 19, axis=1)

    model = {"backend": "blackbox", "factory": wide, "input_shape": [1], "nb_classes": 1 << 19, "task": "regression"}
    with serving({"m": model}) as address, connect(address) as server:
        remote = server.estimator("m")
        x = np.arange(3, dtype=np.float32)[:, None]
        for shares in (False, True, True):
            answer = remote.predict(x)
            assert (answer == x).all()
            (stream,) = server.connection._idle["Predict", "m"]
            assert isinstance(stream, SocketStream)
            assert isinstance(stream._segment, Segment) is shares


def test_a_caller_may_send_chunks_in_messages_where_memory_is_shared(address: str) -> None:
    """Its answer's slots are not taken back before the call has ended."""
    n = 64 * (SLOTS + 4)
    opening = open_field(pb.PredictOpen(call=pb.CallHeader(model="m"), options=pb.RowOptions(batch_size=64)).SerializeToString())
    x, file = rows(n), shared.create()
    first, chunked = first_message(opening, [("x", x)])
    messages = list(in_messages(first, chunked))
    try:
        with Caller(address) as caller:
            caller.send(SHARE, OFFER.pack(file))
            assert caller.receive() == (SHARE, b"\1")
            mine, answer = Segment(os.dup(file), writes_second=False), np.empty((n, WIDTH), np.float32)
            into, filled, read = answer.reshape(-1).view(np.uint8), 0, b""
            for _ in range(2):
                sending = threading.Thread(target=lambda: [caller.send(MESSAGE, message) for message in messages])
                sending.start()
                # Read as late as can be: whatever is overwritten before shows.
                sending.join(1.0)
                assert caller.receive()[0] == MESSAGE
                answer[:], filled = 0, 0
                while filled < into.nbytes:
                    kind, payload = caller.receive()
                    assert kind == SHARED
                    slot, offset, nbytes = PLACE.unpack(payload)
                    into[offset : offset + nbytes] = np.frombuffer(mine.get(slot, nbytes), np.uint8)
                    filled += nbytes
                    read += HEADER.pack(FREED, SLOT.size) + SLOT.pack(slot)
                    if filled < into.nbytes and len(read) == 4 * (HEADER.size + SLOT.size):
                        caller.socket.sendall(read)
                        read = b""
                read = b""
                sending.join()
                np.testing.assert_array_equal(answer, -x)
    finally:
        os.close(file)


@pytest.mark.parametrize("same_host", [True, False], ids=["same host", "gRPC"])
@pytest.mark.parametrize("batch_size", [0, 1, 100])
def test_rows_without_elements_are_an_answer(same_host: bool, batch_size: int) -> None:
    def nothing() -> Callable[[Any], Any]:
        return lambda x: x[:, :0]

    model = {"backend": "blackbox", "factory": nothing, "input_shape": [WIDTH], "nb_classes": 1, "task": "regression"}
    with serving({"m": model, "same": MODEL}) as address, connect(address, same_host=same_host, timeout_s=20.0) as server:
        for n in (2, 300):
            assert server.estimator("m").predict(rows(n), batch_size=batch_size).shape == (n, 0)
            np.testing.assert_array_equal(server.estimator("same").predict(rows(n)), -rows(n))


def test_a_server_may_have_as_many_files_open_as_the_system_allows() -> None:
    told = subprocess.run([sys.executable, "-c", _FEW_FILES], capture_output=True, text=True, check=True, timeout=60)
    few, then, most = told.stdout.split()
    assert few == "64"
    assert then == most


_FEW_FILES = """
import resource
from gradwire.server.system import allow_many_files
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
few, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
allow_many_files()
print(few, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_calls_use_the_same_slots_again(address: str) -> None:
    """No slot is given back in words where a call needs few, and none is lost."""
    with connect(address) as server:
        remote, x = server.estimator("m"), rows(64 * 3 + 1)
        for _ in range(4 * SLOTS):
            np.testing.assert_array_equal(remote.predict(x), -x)
        (stream,) = server.connection._idle["Predict", "m"]
        assert isinstance(stream, SocketStream)
        assert isinstance(stream._segment, Segment)
        assert len(stream._segment.free) == SLOTS - 4


def test_many_threads_with_large_calls_get_their_own_rows(server: Server) -> None:
    remote, wrong = server.estimator("m"), []

    def work(n: int) -> None:
        x = rows(n)
        for _ in range(6):
            if not np.array_equal(remote.predict(x), -x):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in (70, 200, 400, 700, 1000, 1500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_goes_with_the_connection(address: str) -> None:
    end_s = time.monotonic() + 10
    with connect(address) as server:
        server.estimator("m").predict(rows(200))
        assert mapped() >= 2  # both sides are in this process
        before = mapped(), open_files()
    while mapped() > before[0] - 2 or open_files() > before[1] - 2:
        assert time.monotonic() < end_s, (before, mapped(), open_files())
        time.sleep(0.05)


def test_a_server_that_cannot_map_the_memory_gets_chunks(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container of its own."""
    from gradwire.server.transport import same_host as server_side

    def refused(pid: int, number: int) -> Segment:
        raise PermissionError("another container")

    monkeypatch.setattr(server_side, "attach", refused)
    with connect(address) as server:
        x = rows(300)
        for _ in range(2):
            np.testing.assert_array_equal(server.estimator("m").predict(x), -x)
        (stream,) = server.connection._idle["Predict", "m"]
        assert isinstance(stream, SocketStream)
        assert stream._segment is False


def test_a_client_without_files_in_memory_sends_chunks(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> int:
        raise OSError("too many open files")

    monkeypatch.setattr(client_side, "create", none)
    with connect(address) as server:
        x = rows(300)
        np.testing.assert_array_equal(server.estimator("m").predict(x), -x)


def test_an_error_in_the_middle_leaves_the_next_call_right(server: Server) -> None:
    remote = server.estimator("m")
    x = rows(1000)
    np.testing.assert_array_equal(remote.predict(x), -x)
    opening = open_field(pb.PredictOpen(call=pb.CallHeader(model="nobody")).SerializeToString())
    for _ in range(3):
        with pytest.raises(Exception, match="nobody"):
            server.connection.call("Predict", opening, [("x", x)])
        np.testing.assert_array_equal(remote.predict(x), -x)


class Caller:
    """Somebody who speaks the protocol by hand."""

    def __init__(self, address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = transport_pb2_grpc.TransportServiceStub(channel)
            name = stub.GetSameHost(transport_pb2.GetSameHostRequest()).socket
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(abstract(name))
        self.send(HELLO, SameHostHello(method="Predict", client="c").SerializeToString())

    def send(self, kind: int, payload: bytes) -> None:
        self.socket.sendall(HEADER.pack(kind, len(payload)) + payload)

    def receive(self) -> tuple[int, bytes]:
        kind, length = HEADER.unpack(self._exactly(HEADER.size))
        return kind, self._exactly(length)

    def _exactly(self, nbytes: int) -> bytes:
        taken = b""
        while len(taken) < nbytes:
            piece = self.socket.recv(nbytes - len(taken))
            assert piece, "hung up"
            taken += piece
        return taken

    def status(self) -> Status:
        while True:
            kind, payload = self.receive()
            if kind == STATUS:
                return Status.FromString(payload)

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def unsealed() -> int:
    file = os.memfd_create("gradwire", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, shared._NBYTES)
    return file


def short() -> int:
    file = os.memfd_create("gradwire", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, 4096)
    import fcntl

    fcntl.fcntl(file, fcntl.F_ADD_SEALS, shared._SEALS)
    return file


def of_other_rules() -> int:
    """Offer of a peer that waits for each slot to be returned by a message."""
    import fcntl

    file = os.memfd_create("gradwire", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, 2 * SLOTS * CHUNK_NBYTES)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, shared._SEALS)
    return file


def no_memory() -> int:
    return os.open("/dev/null", os.O_RDWR)


@pytest.mark.parametrize("make", [unsealed, short, of_other_rules, no_memory])
def test_memory_that_could_be_cut_off_is_not_taken(address: str, server: Server, make: Callable[[], int]) -> None:
    file = make()
    try:
        with Caller(address) as caller:
            caller.send(SHARE, OFFER.pack(file))
            assert caller.receive() == (SHARE, b"\0")
    finally:
        os.close(file)
    with Caller(address) as caller:
        caller.send(SHARE, OFFER.pack(999_999))
        assert caller.receive() == (SHARE, b"\0")
    assert server.estimator("m").predict(rows(1)).shape == (1, WIDTH)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (SHARED, PLACE.pack(SLOTS, 0, 10)),
        (SHARED, PLACE.pack(255, 0, 10)),
        (SHARED, PLACE.pack(0, 0, CHUNK_NBYTES + 1)),
        (SHARED, PLACE.pack(0, 0, 0xFFFFFFFF)),
        (SHARED, b"short"),
        (FREED, SLOT.pack(0)),
        (FREED, SLOT.pack(200)),
        (FREED, b""),
        (SHARE, b""),
        (SHARE, OFFER.pack(0)),
    ],
)
def test_frames_about_memory_that_make_no_sense_end_the_stream(address: str, server: Server, kind: int, payload: bytes) -> None:
    file = shared.create()
    try:
        with Caller(address) as caller:
            caller.send(SHARE, OFFER.pack(file))
            assert caller.receive() == (SHARE, b"\1")
            caller.send(kind, payload)
            assert caller.status().code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    finally:
        os.close(file)
    assert server.estimator("m").predict(rows(1)).shape == (1, WIDTH)


@pytest.mark.parametrize(
    ("offset", "nbytes", "told"), [(7, 100, "begins at byte 7"), (0, 0, "empty chunk"), (1, CHUNK_NBYTES, "begins at byte 1")]
)
def test_chunks_in_slots_are_checked_as_those_in_messages_are(address: str, offset: int, nbytes: int, told: str) -> None:
    file = shared.create()
    opening = open_field(pb.PredictOpen(call=pb.CallHeader(model="m")).SerializeToString())
    first, _ = first_message(opening, [("x", rows(65))])
    try:
        with Caller(address) as caller:
            caller.send(SHARE, OFFER.pack(file))
            caller.send(MESSAGE, first)
            caller.send(SHARED, PLACE.pack(0, offset, nbytes))
            status = caller.status()
            assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            assert told in status.message
    finally:
        os.close(file)


def test_chunks_where_a_call_should_begin_and_too_many_of_them_are_refused(address: str, server: Server) -> None:
    file = shared.create()
    try:
        with Caller(address) as caller:
            caller.send(SHARE, OFFER.pack(file))
            caller.send(SHARED, PLACE.pack(0, 0, 10))
            assert "expected a PredictRequest; got a chunk" in caller.status().message
        with Caller(address) as caller:
            caller.send(SHARE, OFFER.pack(file))
            frame = PLACE.pack(0, 0, 10)
            caller.socket.sendall((HEADER.pack(SHARED, len(frame)) + frame) * 1000)
            assert caller.status().code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    finally:
        os.close(file)
    assert server.estimator("m").predict(rows(1)).shape == (1, WIDTH)


def test_a_caller_who_never_gives_slots_back_loses_its_call(address: str, server: Server) -> None:
    file = shared.create()
    opening = open_field(pb.PredictOpen(call=pb.CallHeader(model="m")).SerializeToString())
    x = rows(64 * (SLOTS + 3))
    first, chunked = first_message(opening, [("x", x)])
    try:
        with Caller(address) as caller:
            caller.send(SHARE, OFFER.pack(file))
            mine = Segment(os.dup(file), writes_second=False)
            caller.send(MESSAGE, first)
            for at in range(0, len(chunked[0]), CHUNK_NBYTES):
                data = chunked[0][at : at + CHUNK_NBYTES]
                while not mine.free:
                    kind, payload = caller.receive()
                    if kind == FREED:
                        mine.freed(*SLOT.unpack(payload))
                caller.send(SHARED, PLACE.pack(mine.put(data), at, len(data)))
            began_s = time.monotonic()
            status = caller.status()
            assert status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            assert time.monotonic() - began_s < 10
    finally:
        os.close(file)
    np.testing.assert_array_equal(server.estimator("m").predict(x), -x)
