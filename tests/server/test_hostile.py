"""Callers who send what no client of ours would, and people who press Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch_owners
from torch import nn

from gradwire.client import Server, connect
from gradwire.client.errors import CallTimeout, GradwireError, InvalidCall, ShapeError, error_of
from gradwire.client.transport.streams import Deadlines, Stream
from gradwire.server import serving
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1.tensor_pb2 import DTYPE_FLOAT32, Tensor
from gradwire.wire.frames import open_field

pytestmark = pytest.mark.usefixtures("transport")


class Mean(nn.Module):
    """Any number of steps of three features."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        return self.head(x.mean(1))


MODELS = {
    "fixed": {"backend": "torch", "factory": torch_owners.linear, "input_shape": [64], "nb_classes": 10, "access": "trainer",
              "loss": "torch.nn.CrossEntropyLoss", "optimizer": "torch.optim.Adam"},
    "free": {"backend": "torch", "factory": Mean, "input_shape": [-1, 3], "nb_classes": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(MODELS) as address, connect(address) as server:
        yield server


def answer(server: Server, method: str, *messages: bytes) -> Exception:
    """The error that messages sent as they are end in."""
    stream = server.connection.open_stream(method)
    stream.send(iter(messages))
    with pytest.raises(grpc.RpcError) as caught:
        stream.receive()
    return error_of(caught.value, server.address)


def announced(opened: Any, **shapes: tuple[int, ...]) -> bytes:
    """A first message whose tensors are announced, and never come."""
    tensors = []
    for name, shape in shapes.items():
        nbytes = 4 * int(np.prod(np.array(shape, object)))
        tensors.append(Tensor(name=name, dtype=DTYPE_FLOAT32, shape=shape, nbytes=nbytes))
    return open_field(opened.SerializeToString()) + pb.PredictRequest(tensors=tensors).SerializeToString()


def test_many_tensors_in_one_message_are_refused_before_they_are_looked_at(server: Server) -> None:
    opened = open_field(pb.PredictOpen(call=pb.CallHeader(model="fixed")).SerializeToString())
    began_s = time.monotonic()
    assert isinstance(answer(server, "Predict", opened + b"\x12\x00" * 500_000), InvalidCall)
    assert time.monotonic() - began_s < 3.0


def test_a_long_request_id_is_refused(server: Server) -> None:
    opened = pb.PredictOpen(call=pb.CallHeader(model="fixed", request_id="x" * 1000))
    assert isinstance(answer(server, "Predict", announced(opened, x=(1, 64))), InvalidCall)


def test_sizes_of_nothing_are_refused_where_any_size_is_taken(server: Server) -> None:
    opened = pb.PredictOpen(call=pb.CallHeader(model="free"))
    assert isinstance(answer(server, "Predict", announced(opened, x=(2**60, 0, 3))), InvalidCall)
    assert isinstance(answer(server, "Predict", announced(opened, x=(5, 0, 3))), ShapeError)
    assert server.estimator("free").predict(np.ones((2, 5, 3))).shape == (2, 2)


def test_a_label_takes_no_memory_for_rows_that_have_not_come(server: Server) -> None:
    def rss_kb() -> int:
        return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])

    before = rss_kb()
    stream = server.connection.open_stream("ClassGradient")
    stream.send(iter([announced(pb.ClassGradientOpen(call=pb.CallHeader(model="fixed"), label=1), x=(60_000_000, 64))]))
    time.sleep(0.5)
    assert rss_kb() - before < 100_000  # 60 million labels would have 480 MB
    stream.cancel()


def test_a_cotangent_without_axes_is_refused(server: Server) -> None:
    opened = pb.VectorJacobianProductOpen(call=pb.CallHeader(model="fixed"))
    one = Tensor(name="cotangent", dtype=DTYPE_FLOAT32, nbytes=4, data=bytes(4))
    x = Tensor(name="x", dtype=DTYPE_FLOAT32, shape=(1, 64), nbytes=256, data=bytes(256))
    message = open_field(opened.SerializeToString()) + pb.PredictRequest(tensors=[one, x]).SerializeToString()
    assert isinstance(answer(server, "VectorJacobianProduct", message), ShapeError)


def test_a_callers_standardisation_cannot_enlarge_rows(server: Server) -> None:
    remote = server.estimator("free")
    remote.set_params(preprocessing=(np.zeros((100, 3)), np.ones((100, 3))))
    with pytest.raises(ShapeError, match="mean"):
        remote.predict(np.ones((2, 1, 3)))


@pytest.mark.parametrize("timeout_s", [1e-5, 1e-4, 1e-3])
def test_however_short_its_time_a_call_is_told_that_it_is_over(server: Server, timeout_s: float) -> None:
    x = np.ones((1, 64), np.float32)
    with connect(server.address) as patient:
        remote = patient.estimator("fixed")
        for _ in range(5):
            remote.predict(x)  # so that the server knows that it is quick
        for _ in range(8):
            opened = pb.PredictOpen(call=pb.CallHeader(model="fixed", timeout_s=timeout_s))
            began_s = time.monotonic()
            with suppress(CallTimeout):
                patient.connection.call("Predict", open_field(opened.SerializeToString()), [("x", x)])
            assert time.monotonic() - began_s < 2.0
        assert remote.predict(x).shape == (1, 10)


def test_a_generator_may_raise_anything(server: Server) -> None:
    remote = server.estimator("fixed")
    before = remote.predict(np.ones((1, 64)))
    for error in (SystemExit, GeneratorExit):

        def failing(error: type[BaseException] = error) -> Iterator[Any]:
            yield np.ones((4, 64)), [0, 1, 2, 3]
            raise error

        began_s = time.monotonic()
        with pytest.raises((error, GradwireError)):
            remote.fit_generator(failing(), nb_epochs=1)
        assert time.monotonic() - began_s < 5.0
    np.testing.assert_array_equal(remote.predict(np.ones((1, 64))), before)


def test_a_thread_that_watches_deadlines_ends_when_there_is_nothing_to_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Deadlines, "_LINGER_S", 0.05)
    deadlines = Deadlines()
    stream: Stream = object()  # type: ignore[assignment]
    for _ in range(3):
        deadlines.add(stream, time.monotonic() + 60)
        assert deadlines._thread is not None
        assert deadlines.remove(stream)
        end_s = time.monotonic() + 5
        while deadlines._thread is not None:
            assert time.monotonic() < end_s
            time.sleep(0.01)


CTRL_C = """
import os, signal, sys, threading, time
import numpy as np
from gradwire.client import connect
server = connect(sys.argv[1], same_host=sys.argv[3] == "same host")
remote = server.estimator("fixed")
x = np.ones((int(sys.argv[2]), 64), np.float32)
survived = 0
for attempt in range(30):
    try:
        # Within, because the interrupt may come while the timer is still being started.
        threading.Timer(0.002 + 0.0013 * attempt, os.kill, (os.getpid(), signal.SIGINT)).start()
        while True:
            remote.predict(x)
    except KeyboardInterrupt:
        pass
    assert remote.predict(x).shape == (len(x), 10)
    survived += 1
print("survived", survived, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("rows", [1, 20_000])
def test_a_connection_survives_ctrl_c(server: Server, rows: int, transport: str) -> None:
    command = [sys.executable, "-c", CTRL_C, server.address, str(rows), transport]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "survived 30", done.stderr[-2000:]
