"""Codecs over both transports: the same values as without, rounded or signs; asked for by the call, and otherwise absent."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import torch_owners
from torch import nn

from gradwire.client import Codecs, RemoteEnsemble, RemoteEstimator, Server, connect
from gradwire.client.art import art_estimator
from gradwire.client.errors import DtypeError, GradwireError, InvalidCall, Unsupported, error_of
from gradwire.client.transport.same_host import SocketStream
from gradwire.client.transport.streams import Stream
from gradwire.server import serving
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1.tensor_pb2 import (
    CODEC_BFLOAT16,
    CODEC_FLOAT16,
    CODEC_SIGN,
    CODEC_UNSPECIFIED,
    DTYPE_FLOAT32,
    DTYPE_INT64,
    Tensor,
)
from gradwire.wire.frames import CHUNK_NBYTES, first_message, open_field
from gradwire.wire.tensors import inline, outgoing, spec_of

WIDE = 1 << 15
ROUNDED: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def negated() -> Callable[[Any], Any]:
    return lambda x: -x


def layered() -> nn.Module:
    return nn.Sequential(torch_owners.linear())


LINEAR: dict[str, Any] = {"backend": "torch", "loss": "torch.nn.CrossEntropyLoss", "access": "trainer"}
MODELS: dict[str, Any] = {
    "linear": {**LINEAR, "factory": layered, "input_shape": [64], "nb_classes": 10, "optimizer": "torch.optim.Adam"},
    "same": {**LINEAR, "factory": torch_owners.linear, "input_shape": [64], "nb_classes": 10},
    "wide": {**LINEAR, "factory": lambda: torch_owners.linear(WIDE, 2), "input_shape": [WIDE], "nb_classes": 2},
    "negated": {"backend": "blackbox", "factory": negated, "input_shape": [WIDE], "nb_classes": WIDE, "task": "regression"},
    "labels": {"same_as": "linear", "access": "labels"},
    "both": {"backend": "ensemble", "members": ["linear", "same"], "access": "gradients", "input_shape": [64], "nb_classes": 10},
}


@pytest.fixture(scope="module")
def server(transport: str) -> Iterator[Server]:
    with serving(MODELS) as address, connect(address) as server:
        yield server
        kinds = {type(stream) for streams in server.connection._idle.values() for stream in streams}
        assert kinds == {SocketStream if transport == "same host" else Stream}


def rows(n: int, width: int) -> Any:
    # With both zeros, so that outputs of "negated" have them too.
    values = np.random.default_rng(n).standard_normal((n, width), np.float32)
    values[:, ::7] *= 0
    return values


def rounded(array: Any, codec: str) -> Any:
    return array.astype(ROUNDED[codec]).astype(array.dtype)


# 1 row is one message each way; 40 rows of the wide model are chunks of float32, and one message of signs; 129 and 300 rows
# are more than one block.
SIZES = [("linear", 1), ("linear", 300), ("wide", 1), ("wide", 40), ("wide", 129)]


@pytest.mark.parametrize(("model", "n"), SIZES)
def test_gradients_are_those_without_a_codec_rounded_or_signs(server: Server, model: str, n: int) -> None:
    remote = server.estimator(model)
    x, y = rows(n, remote.input_shape[0]), np.arange(n) % 2
    for ask in (
        lambda remote: remote.loss_gradient(x, y),
        lambda remote: remote.class_gradient(x, y),
        lambda remote: remote.vjp(x, np.eye(remote.nb_classes, dtype=np.float32)[y]),
    ):
        plain = ask(remote)
        for codec in ("float16", "bfloat16", "sign"):
            answer = ask(remote.with_codecs(gradients=codec))
            assert answer.dtype == plain.dtype
            assert answer.flags.writeable
            np.testing.assert_array_equal(answer, np.sign(plain) if codec == "sign" else rounded(plain, codec))


def test_signs_of_many_rows_come_in_chunks(server: Server) -> None:
    x, y = rows(129, WIDE), np.zeros(129, int)
    remote = server.estimator("wide")
    assert x.size // 4 > CHUNK_NBYTES
    for _ in range(2):  # over shared memory from the first call on, and the same stream again
        np.testing.assert_array_equal(remote.with_codecs(gradients="sign").loss_gradient(x, y), np.sign(remote.loss_gradient(x, y)))


def test_gradients_that_are_zero_stay_zero(server: Server) -> None:
    remote = server.estimator("wide").with_codecs(gradients="sign")
    gradient = remote.vjp(rows(3, WIDE), np.array([[0, 0], [1, 0], [np.nan, 0]], np.float32))
    assert (gradient[0] == 0).all()
    assert set(np.unique(gradient[1])) <= {-1.0, 0.0, 1.0}
    assert np.isnan(gradient[2]).all()


@pytest.mark.parametrize("codec", sorted(ROUNDED))
@pytest.mark.parametrize("n", [1, 40, 130])
def test_inputs_and_outputs_are_rounded_each_by_its_own_codec(server: Server, n: int, codec: str) -> None:
    remote = server.estimator("negated")
    x = rows(n, WIDE)
    np.testing.assert_array_equal(remote.with_codecs(inputs=codec).predict(x), -rounded(x, codec))
    np.testing.assert_array_equal(remote.with_codecs(outputs=codec).predict(x), rounded(-x, codec))
    both = remote.with_codecs(inputs=codec, outputs="float16").predict(x)
    np.testing.assert_array_equal(both, rounded(-rounded(x, codec), "float16"))


def test_rows_that_are_small_already_travel_as_they_are(server: Server) -> None:
    remote = server.estimator("linear").with_codecs(inputs="bfloat16")
    plain = server.estimator("linear")
    for x in (np.arange(128, dtype=np.uint8).reshape(2, 64) * 2 + 1, np.linspace(0, 1, 128, dtype=np.float16).reshape(2, 64)):
        np.testing.assert_array_equal(remote.predict(x), plain.predict(x))


def test_labels_losses_and_predictions_stay_as_they_are_unless_asked(server: Server) -> None:
    remote = server.estimator("linear")
    changed = remote.with_codecs(gradients="sign", outputs=None)
    x, y = rows(20, 64), np.random.default_rng(0).dirichlet(np.ones(10), 20).astype(np.float32)
    np.testing.assert_array_equal(changed.predict(x), remote.predict(x))
    np.testing.assert_array_equal(changed.loss(x, y), remote.loss(x, y))
    np.testing.assert_array_equal(changed.with_codecs(outputs="float16").loss(x, y, "mean"), remote.loss(x, y, "mean"))
    layer = remote.layer_names[0]
    np.testing.assert_array_equal(
        changed.with_codecs(outputs="float16").get_activations(x, layer), rounded(remote.get_activations(x, layer), "float16")
    )
    labels = server.estimator("labels")
    np.testing.assert_array_equal(labels.with_codecs(outputs="float16").predict(x), labels.predict(x))


def test_an_answer_is_as_small_as_its_codec_says(server: Server) -> None:
    x, y = rows(8, 64), np.zeros(8, np.int64)
    for codec, nbytes in ((CODEC_UNSPECIFIED, 2048), (CODEC_FLOAT16, 1024), (CODEC_BFLOAT16, 1024), (CODEC_SIGN, 128)):
        opened = pb.LossGradientOpen(call=pb.CallHeader(model="linear", result_codec=codec))
        stream = server.connection.open_stream("LossGradient")
        stream.send_call(*first_message(open_field(opened.SerializeToString()), [("y", y), ("x", x)]))
        (tensor,) = pb.LossGradientResponse.FromString(bytes(stream.receive())).tensors
        assert (tensor.codec, tensor.dtype, tensor.nbytes, len(tensor.data)) == (codec, DTYPE_FLOAT32, nbytes, nbytes)
        assert inline(tensor.data, spec_of(tensor, 0)).shape == x.shape
        stream.cancel()


def test_cards_list_the_codecs(server: Server) -> None:
    assert {frozenset(card.codecs) for card in server.models()} == {frozenset({"float16", "bfloat16", "sign"})}


# What is refused.


def answer(server: Server, method: str, opened: Any, *tensors: Tensor) -> GradwireError:
    """The error that a message as no client of ours would send it ends in."""
    stream = server.connection.open_stream(method)
    stream.send(iter([open_field(opened.SerializeToString()) + pb.PredictRequest(tensors=tensors).SerializeToString()]))
    with pytest.raises(grpc.RpcError) as caught:
        stream.receive()
    return error_of(caught.value, server.address)


def sent(array: Any, name: str = "x", **changes: Any) -> Tensor:
    value, shape, codec, data = outgoing(array)
    plain = {"name": name, "dtype": value, "shape": shape, "codec": codec, "nbytes": len(data), "data": bytes(data)}
    return Tensor(**{**plain, **changes})


@pytest.mark.parametrize("codec", [4, -1, 99])
def test_a_codec_that_nobody_knows_is_refused_by_name_of_those_that_are(server: Server, codec: int) -> None:
    opened = pb.PredictOpen(call=pb.CallHeader(model="linear", result_codec=codec))  # type: ignore[arg-type]
    error = answer(server, "Predict", opened, sent(rows(1, 64)))
    assert isinstance(error, InvalidCall)
    assert f"number {codec}" in str(error)
    assert "float16, bfloat16" in str(error)


def test_signs_of_outputs_losses_and_activations_are_refused_before_any_work(server: Server) -> None:
    call, x = pb.CallHeader(model="linear", result_codec=CODEC_SIGN), sent(rows(1, 64))
    before = server.usage("linear")[0]
    for method, opened, tensors in (
        ("Predict", pb.PredictOpen(call=call), [x]),
        ("Loss", pb.LossOpen(call=call), [sent(np.zeros(1, np.int64), "y"), x]),
        ("GetActivations", pb.GetActivationsOpen(call=call), [x]),
    ):
        error = answer(server, method, opened, *tensors)
        assert isinstance(error, InvalidCall)
        assert "result_codec is sign" in str(error)
    assert server.usage("linear")[0] == before


def test_a_fit_has_no_result_to_ask_for_in_a_codec(server: Server) -> None:
    opened = pb.FitOpen(call=pb.CallHeader(model="linear", result_codec=CODEC_FLOAT16))
    error = answer(server, "Fit", opened, sent(np.zeros(1, np.int64), "y"), sent(rows(1, 64)))
    assert isinstance(error, InvalidCall)
    assert "a fit has no result" in str(error)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"codec": CODEC_SIGN, "nbytes": 16, "data": bytes(16)}, InvalidCall, "is for results"),
        (
            {"codec": CODEC_FLOAT16, "dtype": DTYPE_INT64, "nbytes": 128, "data": bytes(128)},
            DtypeError,
            "applies to float32, float64",
        ),
        ({"codec": CODEC_FLOAT16}, InvalidCall, "announces 256 bytes"),
        ({"codec": CODEC_FLOAT16, "nbytes": 128}, InvalidCall, "carries 256 bytes"),
        ({"codec": 7}, InvalidCall, "number 7"),
    ],
    ids=["signs", "integers", "plain size", "plain bytes", "unknown"],
)
def test_tensors_whose_codec_does_not_fit_them_are_refused(server: Server, changes: Any, kind: type, text: str) -> None:
    error = answer(server, "Predict", pb.PredictOpen(call=pb.CallHeader(model="linear")), sent(rows(1, 64), **changes))
    assert isinstance(error, kind)
    assert text in str(error)
    assert server.estimator("linear").predict(rows(1, 64)).shape == (1, 10)


def test_limits_count_decoded_bytes(transport: str) -> None:
    with serving({"negated": MODELS["negated"]}, limits={"max_tensor_bytes": 8 * WIDE}) as address, connect(address) as server:
        x = rows(3, WIDE)
        halves = outgoing(x, CODEC_FLOAT16)
        tensor = Tensor(name="x", dtype=DTYPE_FLOAT32, shape=x.shape, codec=CODEC_FLOAT16, nbytes=len(halves.data))
        assert tensor.nbytes < 8 * WIDE
        error = answer(server, "Predict", pb.PredictOpen(call=pb.CallHeader(model="negated")), tensor)
        assert "max_tensor_bytes" in str(error)
        remote = server.estimator("negated").with_codecs(inputs="float16")
        np.testing.assert_array_equal(remote.predict(x[:2]), -rounded(x[:2], "float16"))


# The client's face.


def test_codecs_are_the_estimators_own(server: Server) -> None:
    remote = server.estimator("linear")
    changed = remote.with_codecs(gradients="sign", inputs="bfloat16")
    assert remote.codecs == Codecs()
    assert changed.codecs == Codecs(inputs="bfloat16", gradients="sign")
    assert changed.server is remote.server
    changed.set_params(clip_values=(0, 1))
    assert remote.clip_values is None
    # What is left out is as it is.
    assert changed.with_codecs(outputs="float16").codecs == Codecs(outputs="float16")
    assert changed.with_codecs().codecs == Codecs()


def test_codecs_survive_copies_pickles_and_arts_estimator(server: Server) -> None:
    remote = server.estimator("linear").with_codecs(gradients="sign")
    x, y = rows(3, 64), np.array([1, 2, 3])
    expected = np.sign(server.estimator("linear").loss_gradient(x, y))
    there = pickle.loads(pickle.dumps(remote))
    for estimator in (copy.copy(remote), copy.deepcopy(remote), there, art_estimator(remote), copy.deepcopy(art_estimator(remote))):
        np.testing.assert_array_equal(estimator.loss_gradient(x, y), expected)
    there.server.close()


def test_an_ensemble_rounds_what_its_members_round_and_takes_no_signs(server: Server) -> None:
    members = [server.estimator("linear"), server.estimator("same")]
    x, y = rows(5, 64), np.arange(5)
    halves = RemoteEnsemble([member.with_codecs(gradients="float16") for member in members])
    expected = sum(0.5 * rounded(member.loss_gradient(x, y), "float16") for member in members)
    np.testing.assert_array_equal(halves.loss_gradient(x, y), expected)
    with pytest.raises(InvalidCall, match="sum of signs"):
        RemoteEnsemble([members[0], members[1].with_codecs(gradients="sign")])
    # A server adds up first.
    both = server.estimator("both")
    np.testing.assert_array_equal(both.with_codecs(gradients="sign").loss_gradient(x, y), np.sign(both.loss_gradient(x, y)))


def test_a_codec_that_there_is_not_is_refused_with_those_that_there_are(server: Server) -> None:
    remote = server.estimator("linear")
    for wrong in ({"inputs": "sign"}, {"outputs": "sign"}, {"gradients": "int8"}, {"inputs": 16}, {"outputs": np.float16}):
        with pytest.raises(InvalidCall, match=f"{next(iter(wrong))} is .* expected None, or one of: float16, bfloat16"):
            remote.with_codecs(**wrong)  # type: ignore[arg-type]


def test_a_server_without_codecs_is_not_asked_for_them(server: Server) -> None:
    remote = RemoteEstimator(server, server.card("linear"))
    object.__setattr__(remote.card, "codecs", frozenset())  # as the card of an older server
    with pytest.raises(Unsupported, match="supports: none"):
        remote.with_codecs(gradients="sign")
    assert remote.with_codecs().predict(rows(1, 64)).shape == (1, 10)
