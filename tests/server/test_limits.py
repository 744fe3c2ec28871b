"""Limits on one caller: rows, time, streams, calls. A caller that sends slowly holds only its socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest
from owners import sums
from processes import ServerProcess, server_process

from gradwire.client import Retry, Server, connect
from gradwire.client.errors import CallTimeout, QueueFull, TooLarge, error_of
from gradwire.server import serving
from gradwire.server.errors import Stalled
from gradwire.server.transport.pace import Pace
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1.errors_pb2 import ERROR_REASON_STALLED
from gradwire.v1.tensor_pb2 import DTYPE_FLOAT32, Tensor
from gradwire.wire.frames import chunk_messages, messages, open_field

pytestmark = pytest.mark.usefixtures("transport")

ONCE = Retry(attempts=1)
ROW = 1024
MODEL = {"backend": "blackbox", "factory": sums, "input_shape": [ROW], "nb_classes": 2, "max_batch_rows": 128}


def sleeping(seconds: float = 0.6) -> Any:
    """A black box that takes its time."""

    def predict(x: Any) -> Any:
        time.sleep(seconds)
        return np.zeros((len(x), 2), np.float32)

    return predict


SLOW = {"backend": "blackbox", "factory": sleeping, "input_shape": [4], "nb_classes": 2, "max_batch_rows": 1}


def announced(rows: int) -> bytes:
    """The beginning of a call whose rows are to follow."""
    opening = open_field(pb.PredictOpen(call=pb.CallHeader(model="m")).SerializeToString())
    x = Tensor(name="x", dtype=DTYPE_FLOAT32, shape=(rows, ROW), nbytes=4 * rows * ROW)
    return opening + pb.PredictRequest(tensors=[x]).SerializeToString()


def dripping(rows: int, pause_s: float, stop: threading.Event) -> Iterator[bytes]:
    """A call that sends one byte now and then."""
    yield announced(rows)
    at = 0
    while not stop.wait(pause_s):
        yield from chunk_messages(memoryview(b"\0"), at)
        at += 1


def end_of(stream: Any, server: Server) -> Exception:
    with pytest.raises(grpc.RpcError) as caught:
        stream.receive()
    return error_of(caught.value, server.address)


def test_a_call_of_too_many_rows_is_refused_before_they_are_sent() -> None:
    with serving({"m": MODEL}, limits={"max_rows": 10}) as address, connect(address, retry=ONCE) as server:
        remote = server.estimator("m")
        assert remote.predict(np.zeros((10, ROW))).shape == (10, 2)
        with pytest.raises(TooLarge, match="11 rows; the limit max_rows is 10"):
            remote.predict(np.zeros((11, ROW)))
        stream = server.connection.open_stream("Predict")
        stream.send(iter([announced(10**6)]))
        assert isinstance(end_of(stream, server), TooLarge)


@pytest.mark.parametrize("timeout_s", [None, 60.0])
def test_a_call_gets_no_more_time_than_the_server_allows(timeout_s: float | None) -> None:
    with serving({"m": SLOW}, limits={"max_call_s": 0.5}) as address, connect(address, retry=ONCE, timeout_s=timeout_s) as server:
        began_s = time.monotonic()
        with pytest.raises(CallTimeout, match="the 0.5 s of the limit max_call_s"):
            server.estimator("m").predict(np.zeros((20, 4)))
        assert time.monotonic() - began_s < 3.0
        with pytest.raises(CallTimeout, match="its timeout of 0.2 s"):
            connect(address, retry=ONCE, timeout_s=0.2).estimator("m").predict(np.zeros((20, 4)))


def test_a_caller_with_too_many_calls_waiting_is_told_so() -> None:
    with serving({"m": SLOW}, limits={"max_queued_calls": 2}) as address, connect(address, retry=ONCE) as server:
        remote = server.estimator("m")
        results: list[Any] = []

        def call() -> None:
            try:
                results.append(remote.predict(np.zeros((1, 4))).shape)
            except QueueFull as e:
                results.append(f"{e.retry_after_s} {e}")

        threads = [threading.Thread(target=call) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results.count((1, 2)) == 2
        assert sum(str(result).startswith("0.05 ") and "max_queued_calls" in str(result) for result in results) == 3
        assert remote.predict(np.zeros((1, 4))).shape == (1, 2)


def test_an_idle_stream_makes_room_for_another_and_busy_ones_do_not() -> None:
    with serving({"m": MODEL}, limits={"max_streams": 2}) as address, connect(address, retry=ONCE) as server:
        idle, busy = server.connection.open_stream("Predict"), server.connection.open_stream("Predict")
        first = next(messages(open_field(pb.PredictOpen(call=pb.CallHeader(model="m")).SerializeToString()),
                              [("x", np.zeros((1, ROW), np.float32))]))  # fmt: skip
        idle.send(iter([first]))
        idle.receive()
        busy.send(iter([announced(1000)]))
        time.sleep(0.2)
        third = server.connection.open_stream("Predict")
        third.send(iter([announced(1000)]))
        time.sleep(0.2)
        assert not idle.usable
        fourth = server.connection.open_stream("Predict")
        fourth.send(iter([first]))
        error = end_of(fourth, server)
        assert isinstance(error, QueueFull)
        assert "max_streams" in str(error)
        busy.cancel()
        time.sleep(0.2)
        assert server.estimator("m").predict(np.zeros((1, ROW))).shape == (1, 2)
        third.cancel()


def test_a_client_that_drips_bytes_loses_its_call_and_its_place() -> None:
    limits = {"stall_timeout_s": 0.5, "max_calls": 1, "min_bytes_per_s": 1000}
    with serving({"m": MODEL}, limits=limits) as address, connect(address, retry=ONCE) as server:
        stop = threading.Event()
        stream = server.connection.open_stream("Predict")
        began_s = time.monotonic()
        stream.send(dripping(10**6, 0.1, stop))
        error = end_of(stream, server)
        assert isinstance(error, CallTimeout)
        assert error.reason == ERROR_REASON_STALLED
        assert "min_bytes_per_s is 1000" in str(error)
        assert time.monotonic() - began_s < 5.0
        stop.set()
        assert server.estimator("m").predict(np.zeros((1, ROW))).shape == (1, 2)


def test_pace_is_judged_by_the_time_in_which_the_peer_is_waited_for() -> None:
    pace = Pace(100.0, 2.0)
    pace.waited(1.9, 0)
    pace.waited(0.2, 1000)
    # What was fast before does not make up for what is slow now.
    pace.waited(1.0, 1)
    with pytest.raises(Stalled, match=r"2 bytes were sent or taken in 2.5 s"):
        pace.waited(1.5, 1)
    free = Pace(0.0, 2.0)
    free.waited(100.0, 0)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    model = {
        "name": "m",
        "backend": "blackbox",
        "factory": "owners:sums",
        "input_shape": [ROW],
        "nb_classes": 2,
        "max_batch_rows": 65536,
    }
    with server_process(tmp_path_factory.mktemp("drip"), [model]) as process:
        yield process


def test_memory_is_not_taken_before_the_bytes_come(process: ServerProcess) -> None:
    streams = 40
    with ExitStack() as stack:
        server = stack.enter_context(connect(process.address, retry=ONCE))
        server.estimator("m").predict(np.zeros((1, ROW)))
        before = process.rss_bytes()
        for _ in range(streams):
            # 256 MB each in one block, of which one byte comes.
            stream = server.connection.open_stream("Predict")
            stream.send(iter([announced(65536), *chunk_messages(memoryview(b"\0"))]))
            stack.callback(stream.cancel)
        time.sleep(1.0)
        assert process.rss_bytes() - before < streams * (4 << 20)
        assert server.estimator("m").predict(np.zeros((1, ROW))).shape == (1, 2)
