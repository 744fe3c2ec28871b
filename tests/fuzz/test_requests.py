"""Sequences of requests that nobody would send, over real sockets of a real server: answers, or errors that say what is wrong.

After each, a plain call on a new stream is answered as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from fuzz.served import CLASSES, FEATURES, LIMITS, METHODS, MODEL, regression
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradwire.client import Retry, Server, connect
from gradwire.client.errors import ModelFailed, ServerError, error_of
from gradwire.client.transport.same_host import SocketStream
from gradwire.server import serving
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1.tensor_pb2 import Codec, Dtype, Tensor, TensorChunk
from gradwire.wire.frames import Chunk

pytestmark = pytest.mark.usefixtures("transport")

X = np.zeros((2, FEATURES))
SERVED = {"backend": "sklearn", "factory": regression, "input_shape": [FEATURES], "nb_classes": CLASSES, "access": "trainer",
          "max_batch_rows": 4}  # fmt: skip

names = st.sampled_from(["x", "y", "label", "cotangent", "predictions", "", "result", "\0", "x" * 70])
sizes = st.one_of(st.integers(0, 9), st.sampled_from([-1, FEATURES, CLASSES, 1 << 20, 1 << 31, 1 << 62, -(1 << 63)]))
doubles = st.one_of(st.floats(), st.sampled_from([0.0, 1e-9, 0.01, 1e308, float("inf"), float("nan")]))
small = st.one_of(st.integers(-3, 9), st.sampled_from([2**31 - 1, -(2**31)]))
ITEM_NBYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 2, 8: 2, 9: 4, 10: 8}


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Some that are right, many that are nearly right."""
    dtype = draw(st.sampled_from([Dtype.DTYPE_FLOAT64] * 4 + [*Dtype.values(), 99]))
    shape = draw(
        st.one_of(st.just([2, FEATURES]), st.just([9, FEATURES]), st.just([2]), st.lists(sizes, max_size=3), st.just([1] * 40))
    )
    nbytes = max(0, int(np.prod(np.array([1, *shape], object))) * ITEM_NBYTES.get(dtype, 4))
    nbytes = draw(st.one_of(st.just(nbytes), st.just(nbytes), st.integers(0, 400))) % (1 << 64)
    whole = nbytes <= 4096 and draw(st.booleans())
    data = draw(st.binary(min_size=nbytes, max_size=nbytes) if draw(st.booleans()) else st.just(bytes(nbytes))) if whole else b""
    codec = draw(st.sampled_from([0] * 6 + [*Codec.values(), 77]))
    return Tensor(name=draw(names), dtype=dtype, shape=shape, nbytes=nbytes, codec=codec, data=data)


@st.composite
def headers(draw: st.DrawFn) -> pb.CallHeader:
    return pb.CallHeader(
        model=draw(st.sampled_from([MODEL] * 6 + ["", "other", "../m"])),
        request_id=draw(st.sampled_from(["", "same", "x" * 200])),
        timeout_s=draw(st.one_of(st.just(0.0), doubles)),
        result_codec=draw(st.sampled_from([0] * 6 + [*Codec.values(), 77])),
    )


@st.composite
def firsts(draw: st.DrawFn, method: str) -> bytes:
    """A message that holds `open`, whatever else is in it."""
    request = getattr(pb, f"{method}Request")()
    opened = request.open
    opened.call.CopyFrom(draw(headers()))
    if method == "Fit":
        opened.batch_size, opened.nb_epochs = draw(small), draw(st.integers(-2, 2))
        opened.batches, opened.drop_last = draw(st.booleans()), draw(st.booleans())
        request.end = draw(st.booleans())
    else:
        opened.options.batch_size, opened.options.training_mode = draw(small), draw(st.booleans())
        if draw(st.integers(0, 4)) == 0:
            opened.options.standardisation.mean.CopyFrom(draw(tensors()))
            opened.options.standardisation.std.CopyFrom(draw(tensors()))
    if method == "ClassGradient" and draw(st.booleans()):
        opened.label = draw(st.one_of(st.integers(-2, 4), st.sampled_from([1 << 62, -(1 << 63)])))
    if method in ("GetActivations", "VectorJacobianProduct") and draw(st.booleans()):
        opened.layer.index = draw(small)
    if method == "Loss":
        opened.reduction = draw(st.integers(0, 9))
    request.tensors.extend(draw(st.lists(tensors(), max_size=3)))
    return bytes(request.SerializeToString())


@st.composite
def others(draw: st.DrawFn, method: str) -> bytes:
    """A message in the middle of a call."""
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(st.binary(max_size=60))
    if kind == 1:
        return draw(firsts(method))
    chunk = TensorChunk(offset=draw(st.sampled_from([0, 1, 16, 32, 64, 1 << 40, (1 << 64) - 1])), data=draw(st.binary(max_size=80)))
    return bytes(pb.PredictRequest(chunk=chunk).SerializeToString())


@st.composite
def streams(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """A method, and all that is sent on its stream."""
    method = draw(st.sampled_from(METHODS))
    first = draw(st.one_of(firsts(method), firsts(method), firsts(method), others(method)))
    return method, [first, *draw(st.lists(others(method), max_size=5))]


@pytest.fixture(scope="module")
def server(transport: str) -> Iterator[Server]:
    limits = {**LIMITS, "stall_timeout_s": 5.0, "max_call_s": 5.0}
    with serving({MODEL: SERVED}, limits=limits) as address, connect(address, retry=Retry(attempts=1)) as server:
        yield server


def ended(server: Server, method: str, messages: list[Any]) -> Exception | None:
    """Sends all, then hears the server out."""
    stream = server.connection.open_stream(method)
    try:
        stream.send(iter(messages))
        if not isinstance(stream, SocketStream):
            stream.close()  # says that nothing more will come
            while True:
                stream.receive()
        stream.receive()
        return None
    except grpc.RpcError as e:
        return error_of(e, server.address)
    except Exception as e:
        return e
    finally:
        stream.cancel()


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(sent=streams())
def test_whatever_is_sent_the_server_says_what_is_wrong_and_lives(server: Server, sent: tuple[str, list[bytes]]) -> None:
    error = ended(server, *sent)
    assert not isinstance(error, ServerError) or isinstance(error, ModelFailed), error
    assert server.estimator(MODEL).predict(X).shape == (2, CLASSES)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    offsets=st.lists(st.tuples(st.sampled_from([0, 32, 64, 1 << 50]), st.integers(0, 100)), max_size=12),
    rows=st.sampled_from([1, 2, 3, 1 << 40]),
)
def test_chunks_in_shared_memory_are_taken_only_where_they_belong(
    server: Server, transport: str, offsets: list[tuple[int, int]], rows: int
) -> None:
    stream = server.connection.open_stream("Predict")
    if not isinstance(stream, SocketStream):
        stream.cancel()
        pytest.skip("there is no shared memory over gRPC")
    request = pb.PredictRequest(open=pb.PredictOpen(call=pb.CallHeader(model=MODEL)))
    request.tensors.add(name="x", dtype=Dtype.DTYPE_FLOAT64, shape=[rows, FEATURES], nbytes=rows * FEATURES * 8)
    chunks = [Chunk(offset, memoryview(bytes(nbytes))) for offset, nbytes in offsets]
    error: Exception | None = None
    try:
        stream._share()
        stream.send(iter([request.SerializeToString(), *chunks, b"\x1a\x00"]))
        stream.receive()
    except grpc.RpcError as e:
        error = error_of(e, server.address)
    finally:
        stream.cancel()
    assert not isinstance(error, ServerError)
    assert server.estimator(MODEL).predict(X).shape == (2, CLASSES)
