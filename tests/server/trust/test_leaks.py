"""Attempts of callers of labels or rounded scores to get more, by every option, operation and error."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from server.trust.sites import ADMIN, MLP, Site, site

from gradwire.client import RemoteEstimator, Server
from gradwire.client.card import ModelCard
from gradwire.client.errors import GradwireError, InvalidCall, ModelFailed, NotGranted, UnknownModel
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1 import (
    grants_pb2,
    grants_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    status_pb2,
    status_pb2_grpc,
    usage_pb2,
    usage_pb2_grpc,
)
from gradwire.v1.tensor_pb2 import Codec
from gradwire.wire.frames import open_field
from gradwire.wire.names import ANSWER_NAMES, OPERATION_NAMES

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype(np.float32)
ANY_SIZE = {"input_shape": [-1], "nb_classes": 4}
MODELS = [
    {**MLP, "preprocessing": {"mean": 0.25, "std": 2.0}},
    # Rows of another size than the layer's: the framework's error names the sizes of its layers.
    {"name": "any-size", "backend": "torch", "factory": MLP["factory"], **ANY_SIZE, "access": "trainer"},
    {"name": "dropout", "backend": "torch", "factory": {"path": "models:normalised", "args": {"dropout": 0.5}},
     "input_shape": [6], "nb_classes": 4, "access": "trainer"},
    {"name": "secret", "same_as": "mlp", "access": "trainer"},
]  # fmt: skip
ROUNDED: dict[str, dict[str, Any]] = {
    "labels": {"access": "labels"},
    "rounded": {"access": "scores", "decimals": 2, "top_k": 1},
}
GRANTS = [
    *({"principal": who, "model": model, **grant} for who, grant in ROUNDED.items() for model in ("mlp", "any-size", "dropout")),
    {"principal": "counted", "model": "mlp", "access": "labels", "budget": {"forward": 100}},
    *({"principal": "owner", "model": model, "access": "trainer", "activations": True} for model in ("mlp", "any-size", "secret")),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("leaks"), MODELS, GRANTS) as started:
        yield started


@pytest.fixture(scope="module")
def truth(served: Site) -> Callable[[np.ndarray], np.ndarray]:
    """Outputs of the model itself."""
    with served.connect("owner") as server:
        yield server.estimator("mlp").predict


@pytest.fixture(params=ROUNDED)
def who(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def server(served: Site, who: str) -> Iterator[Server]:
    with served.connect(who) as connected:
        yield connected


def told(outputs: np.ndarray, who: str) -> np.ndarray:
    """Outputs that a caller may see."""
    top = outputs.argmax(1)
    rows = np.arange(len(outputs))
    if who == "labels":
        result = np.zeros((len(outputs), 4), np.float32)
        result[rows, top] = 1
        return result
    rounded = np.round(outputs.astype(np.float64), 2)
    result = np.repeat(rounded.max(1, keepdims=True) - 1, 4, axis=1)
    result[rows, rounded.argmax(1)] = rounded.max(1)
    return result.astype(np.float32)


def full(card: ModelCard) -> ModelCard:
    """A card that lets the client send everything."""
    everything = {"operations": frozenset(OPERATION_NAMES.values()), "answers": frozenset(ANSWER_NAMES.values())}
    return replace(card, **everything)


def predict(server: Server, x: np.ndarray = X, model: str = "mlp", **opened: Any) -> np.ndarray:
    """As the contract has it, without the client's checks."""
    call = pb.CallHeader(**{"model": model, **opened.pop("call", {})})
    return server.connection.call("Predict", open_field(pb.PredictOpen(call=call, **opened).SerializeToString()), [("x", x)])


@pytest.mark.parametrize("batch_size", [0, 1, 7, 40, 1 << 30])
@pytest.mark.parametrize("training_mode", [False, True])
def test_no_option_makes_predict_tell_more(
    server: Server, who: str, truth: Callable[..., np.ndarray], batch_size: int, training_mode: bool
) -> None:
    options = pb.RowOptions(batch_size=batch_size, training_mode=training_mode)
    np.testing.assert_allclose(predict(server, options=options), told(truth(X), who), atol=1e-6)


def test_a_blocked_call_tells_no_more(server: Server, who: str, truth: Callable[..., np.ndarray]) -> None:
    x = np.tile(X, (100, 1))
    np.testing.assert_allclose(predict(server, x), told(truth(x), who), atol=1e-6)


def test_noise_of_training_mode_is_not_shown(server: Server, who: str) -> None:
    """Means over dropout's noise would tell scores."""
    rows = np.repeat(X[:1], 50, axis=0)
    answered = predict(server, rows.astype(np.float64), "dropout", options=pb.RowOptions(training_mode=True))
    assert len(np.unique(answered, axis=0)) == 1


@pytest.mark.parametrize("codec", Codec.values())
def test_no_codec_tells_more(server: Server, who: str, truth: Callable[..., np.ndarray], codec: Any) -> None:
    try:
        answered = predict(server, call={"result_codec": codec})
    except InvalidCall:
        return
    np.testing.assert_allclose(answered, told(truth(X), who), atol=1e-2)


@pytest.mark.parametrize("answer", [2, 3, 4, 5, 77, -1])
def test_no_other_answer_is_given(server: Server, answer: int) -> None:
    with pytest.raises((NotGranted, InvalidCall)):
        predict(server, answer=answer)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, float("inf"), float("nan")])
def test_a_standardisation_of_the_callers_own_tells_no_more(
    server: Server, who: str, truth: Callable[..., np.ndarray], scale: float
) -> None:
    remote = RemoteEstimator(server, full(server.card("mlp")))
    with np.errstate(all="ignore"):
        try:
            remote.set_params(preprocessing=(0.0, scale))
            answered = remote.predict(X)
        except InvalidCall:
            return
    if scale >= 1e-3:
        # The server's own would have made (x - 0.25) / 2 of it.
        expected = truth((X / np.float32(scale)) * 2 + 0.25)
        np.testing.assert_allclose(answered, told(expected, who), atol=0.02)
    assert set(np.unique(answered)) <= {0.0, 1.0} if who == "labels" else is_rounded(answered)


def is_rounded(answered: np.ndarray) -> bool:
    """Two decimals of one score, and of the others nothing."""
    top = answered.max(1, keepdims=True)
    others = np.where(answered == top, top - 1, answered)
    return bool(np.allclose(top, np.round(top.astype(np.float64), 2), rtol=1e-6) and np.allclose(others, top - 1))


OPERATIONS: dict[str, Callable[[RemoteEstimator], Any]] = {
    "loss": lambda remote: remote.compute_loss(X, np.zeros(40, int)),
    "mean loss": lambda remote: remote.compute_loss(X, np.zeros(40, int), reduction="mean"),
    "loss of predictions": lambda remote: remote.compute_loss_from_predictions(np.zeros((40, 4)), np.zeros(40, int)),
    "loss_gradient": lambda remote: remote.loss_gradient(X, np.zeros(40, int)),
    "class_gradient": lambda remote: remote.class_gradient(X, 1),
    "get_activations": lambda remote: remote.get_activations(X, 0),
    "vjp": lambda remote: remote.vjp(X, np.ones((40, 4))),
    "vjp of a layer": lambda remote: remote.vjp(X, np.ones((40, 8)), 0),
    "fit": lambda remote: remote.fit(X, np.zeros(40, int)),
    "versions": lambda remote: remote.versions(),
    "restore": lambda remote: remote.restore("kept"),
    "clone": lambda remote: remote.clone_for_refitting(),
    "a layer that is not there": lambda remote: remote.get_activations(X, "nowhere"),
    "an answer of members": lambda remote: remote.predict(X, raw=True),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_other_operation_tells_anything(server: Server, operation: str) -> None:
    with pytest.raises(NotGranted) as caught:
        OPERATIONS[operation](RemoteEstimator(server, full(server.card("mlp"))))
    # Neither layers nor numbers that depend on the model.
    assert not re.search(r"Linear|Tanh|CrossEntropy|\d\.\d", str(caught.value))


def test_what_the_owners_code_says_when_it_fails_is_told_to_those_who_see_inside_alone(served: Site, server: Server) -> None:
    with served.connect("owner") as owner, pytest.raises(ModelFailed, match="shapes cannot be multiplied"):
        predict(owner, X[:, :5].astype(np.float32), "any-size")
    with pytest.raises(ModelFailed) as caught:
        predict(server, X[:, :5].astype(np.float32), "any-size")
    assert str(caught.value) == "the model failed in predict; the server's log says why"
    assert "shapes cannot be multiplied" in served.server.log.read_text()


def test_a_malformed_request_is_told_what_the_card_says_and_no_more(server: Server) -> None:
    card = server.card("mlp")
    texts = []
    tensors: list[list[tuple[str, np.ndarray]]] = [
        [("x", X[:, :3])], [("x", X[:0])], [("y", X), ("x", X)], [("predictions", X)], [("cotangent", X), ("x", X)], [],
        [("x", X.astype(np.complex64).view(np.float32))],
    ]  # fmt: skip
    opening = open_field(pb.PredictOpen(call=pb.CallHeader(model="mlp")).SerializeToString())
    for arrays in tensors:
        with pytest.raises(GradwireError) as caught:
            server.connection.call("Predict", opening, arrays)
        texts.append(str(caught.value))
    for opened in ({"call": {"request_id": "x" * 1000}}, {"options": pb.RowOptions(batch_size=-1)}):
        with pytest.raises(InvalidCall) as wrong:
            predict(server, **opened)
        texts.append(str(wrong.value))
    said = " ".join(texts)
    assert not re.search(r"Linear|Tanh|Sequential|CrossEntropy|torch|Traceback|models\.py", said), said
    assert card.input_shape == (6,)


def test_a_card_tells_nothing_of_the_inside(server: Server, who: str) -> None:
    for card in server.models():
        assert card.operations == {"predict"}
        assert card.answers == {"outputs"}
        assert (card.layer_names, card.loss, card.loss_reduction, card.notes) == ((), "", "", ())
        assert (card.preprocessing, card.preprocessing_defences, card.postprocessing_defences) == (None, (), ())
        if who == "labels":
            assert (card.output_kind, card.output_shape, card.output_dtype) == ("labels", (4,), np.dtype(np.float32))


def test_usage_tells_of_the_caller_alone(server: Server, who: str) -> None:
    predict(server, X[:3])
    assert {(one.principal, one.access) for one in server.usage()} == {(who, ROUNDED[who]["access"])}
    for others in ({"principal": "owner"}, {"principal": "nobody"}, {"everybody": True}, {"name": "secret", "principal": "owner"}):
        with pytest.raises(NotGranted, match="admins"):
            server.usage(**others)


def test_grants_are_for_admins_alone(server: Server, who: str) -> None:
    stub = grants_pb2_grpc.GrantServiceStub(server.connection.channel())
    more = grants_pb2.Grant(principal=who, model="mlp", access=model_pb2.ACCESS_TRAINER)
    metadata = server.connection._metadata
    for call, request in (
        (stub.PutGrant, grants_pb2.PutGrantRequest(grant=more)),
        (stub.RevokeGrant, grants_pb2.RevokeGrantRequest(principal="owner", model="mlp")),
        (stub.ListGrants, grants_pb2.ListGrantsRequest(principal=who)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(request, metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_the_servers_status_is_for_admins_alone(server: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        status_pb2_grpc.StatusServiceStub(server.connection.channel()).GetStatus(
            status_pb2.GetStatusRequest(), metadata=server.connection._metadata
        )
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


# Request ids.


def test_a_request_id_pays_for_one_question(served: Site) -> None:
    with served.connect("counted") as server:
        before = server.usage("mlp")[0]
        first = predict(server, X[:5], call={"request_id": "one"})
        np.testing.assert_array_equal(predict(server, X[:5], call={"request_id": "one", "attempt": 2}), first)
        assert server.usage("mlp")[0].forward == before.forward + 5
        predict(server, X[5:10], call={"request_id": "one"})
        predict(server, X[:5] + np.float32(1e-6), call={"request_id": "one", "attempt": 3})
        predict(server, X[:5], call={"request_id": "one"}, options=pb.RowOptions(batch_size=3))
        after = server.usage("mlp")[0]
        assert after.forward - before.forward in (15, 20)
        assert (after.left_forward or 0) <= (before.left_forward or 0) - 15


def test_a_request_id_of_somebody_else_gives_nothing(served: Site) -> None:
    with served.connect("owner") as owner, served.connect("counted") as counted:
        predict(owner, X[:4], call={"request_id": "theirs"})
        before = counted.usage("mlp")[0].forward
        answered = predict(counted, X[:4], call={"request_id": "theirs", "attempt": 2})
        assert set(np.unique(answered)) == {0.0, 1.0}
        assert counted.usage("mlp")[0].forward == before + 4


# Names that are there for others.

NAMED: dict[str, Callable[[Server, str], Any]] = {
    "Predict": lambda server, name: predict(server, X, name),
    "GetModel": lambda server, name: server.card(name),
    "GetUsage": lambda server, name: server.usage(name),
    **{
        method: (
            lambda server, name, method=method: server.connection.ask(
                lambda call: getattr(model_pb2_grpc.ModelServiceStub(server.connection.channel()), method)(
                    getattr(model_pb2, f"{method}Request")(model=name), **call
                ),
                again=False,
            )
        )
        for method in ("SaveVersion", "ListVersions", "RestoreVersion", "ResetModel", "CloneModel", "DeleteClone")
    },
    **{
        method: (
            lambda server, name, method=method: server.connection.call(
                method,
                open_field(getattr(pb, f"{method}Open")(call=pb.CallHeader(model=name)).SerializeToString()),
                [("x", X)],
            )
        )
        for method in ("Loss", "LossGradient", "ClassGradient", "GetActivations", "VectorJacobianProduct")
    },
}


@pytest.mark.parametrize("call", NAMED)
def test_a_name_that_is_not_granted_is_as_one_that_does_not_exist(server: Server, call: str) -> None:
    texts = []
    for name in ("secret", "absent"):
        with pytest.raises(UnknownModel) as caught:
            NAMED[call](server, name)
        texts.append((str(caught.value).replace(name, "NAME"), caught.value.reason, caught.value.field, caught.value.quota))
    assert texts[0] == texts[1]
    assert "secret" not in texts[0][0]


def test_a_clone_of_somebody_else_is_as_a_name_that_does_not_exist(served: Site, server: Server) -> None:
    with served.connect("owner") as owner:
        clone = owner.estimator("mlp").clone_for_refitting()
        try:
            texts = []
            for name in (clone.card.name, "mlp~99"):
                with pytest.raises(UnknownModel) as caught:
                    predict(server, X, name)
                texts.append(str(caught.value).replace(name, "NAME"))
            assert texts[0] == texts[1]
            assert clone.card.name not in {card.name for card in server.models()}
        finally:
            clone.delete()


NOISE_S = 0.0005
"""A statement that an SQLite database reads the disk for takes longer; medians of pairs agree within some microseconds."""


def difference_s(server: Server, call: str, pairs: int = 400) -> float:
    """Extra time to refuse a name that exists for others: the median of pairs of calls, made back to back."""

    def seconds(name: str) -> float:
        began_s = time.perf_counter()
        with pytest.raises(UnknownModel):
            NAMED[call](server, name)
        return time.perf_counter() - began_s

    for name in ("secret", "absent") * 10:
        seconds(name)
    differences = []
    for index in range(pairs):
        if index % 2:
            differences.append(seconds("secret") - seconds("absent"))
        else:
            differences.append(-(seconds("absent") - seconds("secret")))
    return statistics.median(differences)


@pytest.mark.parametrize("call", ["Predict", "GetModel"])
def test_the_time_of_a_refusal_does_not_tell_whether_the_name_exists(server: Server, call: str) -> None:
    # Again if it was noise: what is in the code is there each time.
    assert any(abs(difference_s(server, call)) < NOISE_S for _ in range(3))


SLOW = """
import time
from gradwire.server.trust.grants.book import GrantBook

of = GrantBook.of

def slowly(self, principal, model):
    if model == "secret":
        time.sleep(0.001)
    return of(self, principal, model)

GrantBook.of = slowly
def make():
    return lambda x: x[:, :2]
"""


def test_a_lookup_of_a_millisecond_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "slow_owner.py").write_text(SLOW)
    own = {"backend": "blackbox", "factory": "slow_owner:make", "input_shape": [6], "nb_classes": 2, "access": "scores"}
    models = [{"name": "mine", **own}, {"name": "secret", "same_as": "mine", "access": "scores"}]
    grants = [{"principal": "alice", "model": "mine", "access": "labels"}]
    with site(tmp_path, models, grants) as slow, slow.connect("alice") as server:
        # Both refusals list the names that are granted, and look at every grant for that; the name itself is the difference.
        assert min(abs(difference_s(server, "GetModel", 60)) for _ in range(2)) > NOISE_S


def test_there_is_no_way_to_a_version_of_somebody_elses_clone_by_its_name(tmp_path: Path) -> None:
    """Names of clones begin anew with each server process."""
    grants = [{"principal": who, "model": "mlp", "access": "trainer"} for who in ("alice", "bob")]
    with site(tmp_path, [MLP], grants) as first, first.connect("alice") as alice:
        clone = alice.estimator("mlp").clone_for_refitting()
        clone.save("hers")
        first.server.signal(9)
        first.server.process.wait()
    (tmp_path / "tokens.yaml").unlink()
    with site(tmp_path, [MLP], grants) as second, second.connect("bob") as bob:
        again = bob.estimator("mlp").clone_for_refitting()
        assert again.card.name == clone.card.name
        assert again.versions() == []


def test_the_admin_who_has_no_grant_for_a_model_cannot_query_it(served: Site) -> None:
    with served.connect(ADMIN) as admin:
        with pytest.raises(UnknownModel):
            predict(admin)
        assert {one.principal for one in admin.usage(everybody=True)} >= {"labels", "owner"}
        reply = usage_pb2_grpc.UsageServiceStub(admin.connection.channel()).GetUsage(
            usage_pb2.GetUsageRequest(), metadata=admin.connection._metadata
        )
        assert (reply.principal, list(reply.models)) == (ADMIN, [])
