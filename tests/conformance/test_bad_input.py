"""Bad input: named by the client before anything is sent, and by the server for other clients."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conformance.cases import Case, with_operation

from gradwire.client import RemoteEstimator, Server, connect
from gradwire.client.errors import (
    CallTimeout,
    DtypeError,
    GradwireError,
    InvalidCall,
    LabelError,
    LayerError,
    ShapeError,
    TooLarge,
    Unavailable,
    UnknownModel,
    Unsupported,
)
from gradwire.v1 import estimator_pb2 as pb
from gradwire.wire.frames import messages, open_field


def unchecked(remote: RemoteEstimator, **changes: Any) -> RemoteEstimator:
    """An estimator whose card lies, so that what is wrong reaches the server."""
    return RemoteEstimator(remote.server, replace(remote.card, **changes))


def wrong_rows(case: Case) -> dict[str, Any]:
    x = case.rows(2, 0)
    return {
        "rank too low": x[0].reshape(-1),
        "rank too high": x[None],
        "one feature too many": np.concatenate([x, x[..., :1]], axis=-1),
        "no rows": x[:0],
        "a scalar": np.float64(1.0),
    }


def test_rows_of_a_wrong_shape_are_refused_on_both_sides(remote: RemoteEstimator, case: Case) -> None:
    before = remote.predict(case.rows(2, 0))
    for x in wrong_rows(case).values():
        with pytest.raises(ShapeError, match="x has"):
            remote.predict(x)
        opened = pb.PredictOpen(call=pb.CallHeader(model=remote.card.name))
        with pytest.raises(ShapeError, match="x has"):
            remote.server.connection.call("Predict", open_field(opened.SerializeToString()), [("x", np.asarray(x))])
    np.testing.assert_array_equal(remote.predict(case.rows(2, 0)), before)


@pytest.mark.parametrize("x", [np.array([[object()]]), [["a", "b"]], np.array([[1 + 2j]]), np.array([["2026-01-01"]], "M8")])
def test_what_is_not_a_number_is_refused(server: Server, x: Any) -> None:
    with pytest.raises(DtypeError, match="x has dtype .* expected numbers"):
        server.estimator("torch-cnn").predict(x)


def test_rows_of_different_shapes_are_refused(server: Server) -> None:
    with pytest.raises(ShapeError, match="cannot convert x to an array: .* expected rows of one shape"):
        server.estimator("torch-cnn").predict([[1.0], [1.0, 2.0]])


@with_operation("loss_gradient")
def test_labels_that_make_no_sense_are_refused_on_both_sides(remote: RemoteEstimator, case: Case) -> None:
    x, good = case.rows(3, 0), case.labels(3)
    classes = case.nb_classes
    trusting = unchecked(remote, nb_classes=10_000)
    wrong = {
        "NaN": np.where(np.arange(3) == 1, np.nan, 1.0),
        "infinite": np.full((3, classes), np.inf),
        "too few": good[:2],
        "rows of another width": np.ones((3, classes + 3)),
        "three axes": np.ones((3, 2, classes)),
    }
    if case.task == "classification":
        wrong |= {"out of range": [0, classes, 0], "negative": [0, -1, 0], "not whole": [0.0, 0.5, 1.0]}
    opened = pb.LossGradientOpen(call=pb.CallHeader(model=remote.card.name))
    for y in wrong.values():
        for call in (remote.loss_gradient, remote.compute_loss):
            with pytest.raises(LabelError):
                call(x, y)
        with pytest.raises(LabelError):
            remote.server.connection.call("LossGradient", open_field(opened.SerializeToString()), [("y", np.asarray(y)), ("x", x)])
    for y, error in ((["a", "b", "c"], DtypeError), (None, LabelError)):
        for call in (remote.loss_gradient, remote.compute_loss):
            with pytest.raises(error):
                call(x, y)
    with pytest.raises(LabelError, match="out of range"):
        trusting.class_gradient(x, label=classes)
    with pytest.raises(LabelError, match="out of range"):
        trusting.class_gradient(x, label=[0, 0, classes])
    for label in (classes, -1, [0, 1], [0.5, 0.5, 0.5], np.zeros((3, 1), int), [0, 0, classes]):
        with pytest.raises(LabelError):
            remote.class_gradient(x, label=label)
    assert remote.loss_gradient(x, good).shape == x.shape


@with_operation("get_activations")
def test_a_layer_that_is_not_there_is_named_with_those_that_are(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(2, 0)
    for layer in ("no such layer", len(case.layers), -len(case.layers) - 1):
        with pytest.raises(LayerError, match=case.layers[0]):
            remote.get_activations(x, layer)
    for layer in (None, 1.5, True):
        with pytest.raises(LayerError):
            remote.get_activations(x, layer)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="framework"):
        remote.get_activations(x, 0, framework=True)


@with_operation("vjp")
def test_a_cotangent_of_another_shape_is_refused(remote: RemoteEstimator, case: Case) -> None:
    x = case.rows(3, 0)
    with pytest.raises(ShapeError, match="cotangent"):
        remote.vjp(x, np.ones((2, *remote.card.output_shape)))
    with pytest.raises(ShapeError):
        remote.vjp(x, np.ones((3, *(size + 1 for size in remote.card.output_shape))))


def test_options_out_of_range_are_refused(remote: RemoteEstimator, case: Case) -> None:
    x, y = case.rows(2, 0), case.labels(2)
    with pytest.raises(InvalidCall, match="batch_size"):
        remote.predict(x, batch_size=-1)
    opened = pb.PredictOpen(call=pb.CallHeader(model=remote.card.name), options=pb.RowOptions(batch_size=-1))
    with pytest.raises(InvalidCall, match="batch_size"):
        remote.server.connection.call("Predict", open_field(opened.SerializeToString()), [("x", x)])
    with pytest.raises(InvalidCall, match="reduction"):
        remote.compute_loss(x, y, reduction="median")
    for wrong in ((1.0,), (1.0, 0.0), (np.nan, 1.0), "ab"):
        with pytest.raises(InvalidCall):
            remote.set_params(preprocessing=wrong)
    with pytest.raises(InvalidCall):
        remote.set_params(clip_values=(1.0, 0.0))
    with pytest.raises(Unsupported, match="nb_classes"):
        remote.set_params(nb_classes=3)
    with pytest.raises(Unsupported, match="optimizer"):
        remote.fit(x, y, optimizer="sgd")


def test_a_name_that_is_not_served_is_told_with_those_that_are(server: Server) -> None:
    with pytest.raises(UnknownModel, match="torch-cnn"):
        server.estimator("no such model")


def test_a_server_that_is_not_there_is_an_error_within_a_second(free_port: int) -> None:
    began_s = time.monotonic()
    with pytest.raises(Unavailable, match=str(free_port)), connect(f"127.0.0.1:{free_port}") as nobody:
        nobody.models()
    with pytest.raises(Unavailable), connect("no-such-host.invalid:1") as nowhere:
        nowhere.models()
    # Two calls, with all their retries.
    assert time.monotonic() - began_s < 2.0


RAW = {
    "no open": b"",
    "not protobuf": b"\xff\xff\xff",
    "open that is not a message": b"\x0a\x05abc",
    "a chunk first": b"\x1a\x03\x7a\x01a",
    "no tensors": open_field(pb.PredictOpen(call=pb.CallHeader(model="torch-cnn")).SerializeToString()),
}


@pytest.mark.parametrize("first", RAW.values(), ids=RAW.keys())
@pytest.mark.parametrize(
    "method", ["Predict", "Loss", "LossGradient", "ClassGradient", "GetActivations", "VectorJacobianProduct", "Fit"]
)
def test_messages_that_make_no_call_are_refused(server: Server, method: str, first: bytes) -> None:
    import grpc

    from gradwire.client.errors import error_of

    stream = server.connection.open_stream(method)
    stream.send(iter([first]))
    with pytest.raises(grpc.RpcError) as caught:
        stream.receive()
    assert isinstance(error_of(caught.value, server.address), InvalidCall)


def test_frames_out_of_order_are_refused(server: Server) -> None:
    import grpc

    from gradwire.client.errors import error_of

    opening = open_field(pb.PredictOpen(call=pb.CallHeader(model="torch-cnn")).SerializeToString())
    x = np.zeros((5000, 1, 8, 8))
    good = list(messages(opening, [("x", x)]))
    wrong = {
        "a chunk left out": [good[0], good[2]],
        "a chunk twice": [good[0], good[1], good[1]],
        "open again": [good[0], good[0]],
        "too much": [*good, good[-1]],
        "the end in the middle": [good[0], good[1], None],
    }
    # gRPC, whose streams can be closed on one side: on this host's sockets the end is a hang-up.
    for sent in wrong.values():
        stream = server.connection.open_grpc_stream("Predict")
        stream.send(message for message in sent if message is not None)
        if sent[-1] is None:
            stream.close()
        with pytest.raises(grpc.RpcError) as caught:
            while True:
                stream.receive()
        assert isinstance(error_of(caught.value, server.address), InvalidCall)
    assert server.estimator("torch-cnn").predict(x[:2]).shape == (2, 10)


def test_a_tensor_over_the_limit_is_refused_with_the_limits_name(server: Server) -> None:
    remote = server.estimator("torch-cnn")
    limits = replace(remote.card.limits, max_tensor_bytes=1000)
    with pytest.raises(TooLarge, match="max_tensor_bytes"):
        unchecked(remote, limits=limits).predict(np.zeros((10, 1, 8, 8)))


def test_every_error_of_a_call_is_a_gradwire_error_and_the_pythonic_one(server: Server) -> None:
    remote = server.estimator("torch-cnn")
    for error in (ValueError, GradwireError):
        with pytest.raises(error):
            remote.predict(np.zeros(3))
    with pytest.raises(LookupError):
        server.estimator("nothing")
    with pytest.raises(NotImplementedError):
        server.estimator("blackbox").loss_gradient(np.zeros((1, 6)), [0])
    assert issubclass(CallTimeout, TimeoutError)
    assert issubclass(Unavailable, ConnectionError)
