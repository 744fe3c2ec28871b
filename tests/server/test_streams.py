"""Streams that stall or idle are ended, and hold nothing but their socket."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
from owners import sums

from gradwire.client import Retry, Server, connect
from gradwire.client.errors import CallTimeout, error_of
from gradwire.server import serving
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1.errors_pb2 import ERROR_REASON_STALLED
from gradwire.wire.frames import messages, open_field

pytestmark = pytest.mark.usefixtures("transport")


def slowly(x: Any) -> Any:
    """Two classes, after a second."""
    time.sleep(1.0)
    return np.zeros((len(x), 2))


MODEL = {"backend": "blackbox", "factory": sums, "input_shape": [1024], "nb_classes": 2, "max_batch_rows": 128}
LIMITS = {"stall_timeout_s": 0.4, "idle_timeout_s": 0.8, "max_calls": 1}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"m": MODEL}, limits=LIMITS) as address, connect(address, retry=Retry(attempts=1)) as server:
        yield server


def large_call(rows: int) -> list[bytes]:
    opening = open_field(pb.PredictOpen(call=pb.CallHeader(model="m")).SerializeToString())
    return list(messages(opening, [("x", np.zeros((rows, 1024), np.float32))]))


def end_of(stream: Any, server: Server) -> Exception:
    with pytest.raises(grpc.RpcError) as caught:
        while True:
            stream.receive()
    return error_of(caught.value, server.address)


def test_a_client_that_stops_sending_loses_its_call_and_its_place(server: Server) -> None:
    stream = server.connection.open_stream("Predict")
    stream.send(iter(large_call(1000)[:2]))
    time.sleep(0.1)
    began_s = time.monotonic()
    error = end_of(stream, server)
    assert isinstance(error, CallTimeout)
    assert error.reason == ERROR_REASON_STALLED
    assert time.monotonic() - began_s < 3.0
    # With max_calls: 1 this would be refused if the stalled call still had its place.
    assert server.estimator("m").predict(np.zeros((1, 1024))).shape == (1, 2)


def test_a_client_that_takes_no_results_loses_its_call_and_its_place() -> None:
    wide = {"backend": "blackbox", "factory": lambda: lambda x: np.zeros((len(x), 1 << 16), np.float32), "input_shape": [4],
            "nb_classes": 1 << 16, "max_batch_rows": 16}  # fmt: skip
    with serving({"m": wide}, limits=LIMITS) as address, connect(address, retry=Retry(attempts=1)) as server:
        opening = open_field(pb.PredictOpen(call=pb.CallHeader(model="m")).SerializeToString())
        # gRPC's flow control takes some results; a gigabyte of them it does not.
        stream = server.connection.open_stream("Predict")
        stream.send(messages(opening, [("x", np.zeros((4096, 4), np.float32))]))
        time.sleep(2.0)
        assert server.estimator("m").predict(np.zeros((1, 4))).shape == (1, 1 << 16)
        stream.cancel()


def test_a_stream_without_calls_is_ended_without_an_error(server: Server) -> None:
    remote = server.estimator("m")
    x = np.zeros((2, 1024))
    stream = server.connection.open_stream("Predict")
    stream.send(iter(large_call(2)))
    stream.receive()
    time.sleep(1.6)
    assert not stream.usable
    remote.predict(x)
    time.sleep(1.6)
    assert remote.predict(x).shape == (2, 2)


EDGES = {"idle": ({"idle_timeout_s": 0.1}, (0.09, 0.15)), "old": ({"max_connection_age_s": 0.1}, (0.10, 0.16))}


@pytest.mark.parametrize("ends", EDGES)
def test_an_end_that_crosses_a_call_on_its_way_costs_nothing(ends: str) -> None:
    """Begins calls on streams that are about to end; none needs a second attempt."""
    limits, (least_s, most_s) = EDGES[ends]
    with serving({"m": MODEL}, limits=limits) as address, connect(address, retry=Retry(attempts=1)) as server:
        remote = server.estimator("m")

        def call(seed: int) -> int:
            chance, sent = random.Random(seed), 0
            for _ in range(16):
                rows = chance.choice((1, 1, 1, 700))  # 700: in three messages
                assert remote.predict(np.zeros((rows, 1024), np.float32)).shape == (rows, 2)
                sent += rows
                time.sleep(chance.uniform(least_s, most_s))
            return sent

        with futures.ThreadPoolExecutor(8) as pool:
            sent = sum(pool.map(call, range(8)))
        assert remote.usage().forward == sent


def test_streams_of_gRPC_grow_old_and_those_of_the_same_host_do_not(transport: str) -> None:  # noqa: N802, its name
    with serving({"m": MODEL}, limits={"max_connection_age_s": 0.2}) as address, connect(address) as server:
        stream = server.connection.open_stream("Predict")
        stream.send(iter(large_call(2)))
        stream.receive()
        time.sleep(0.5)
        assert stream.usable == (transport == "same host")


def test_an_old_stream_is_left_until_its_call_ends() -> None:
    slow = {"backend": "blackbox", "factory": lambda: slowly, "input_shape": [4], "nb_classes": 2}
    with serving({"m": slow}, limits={"max_connection_age_s": 0.2}) as address:
        with connect(address, retry=Retry(attempts=1), same_host=False) as server:
            remote = server.estimator("m")
            for _ in range(2):
                assert remote.predict(np.zeros((1, 4))).shape == (1, 2)
