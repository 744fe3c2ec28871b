"""Ensembles of remote models on several servers: the sums of a served ensemble, computed in parallel."""

from __future__ import annotations

import copy
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool, HopSkipJump, ProjectedGradientDescent
from art.estimators.classification import EnsembleClassifier, PyTorchClassifier
from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin
from art.estimators.estimator import LossGradientsMixin, NeuralNetworkMixin
from differences import gradient

import models
from gradwire.client import RemoteEnsemble, RemoteEstimator, Server, connect
from gradwire.client.art import art_estimator, art_pytorch_classifier
from gradwire.client.errors import GradwireError, InvalidCall, LabelError, ModelFailed, ServerError, ShapeError, Unsupported
from gradwire.client.torch import remote_module
from gradwire.server import serving

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.random((7, 6)), np.arange(7) % 4
IMAGES = RANDOM.random((5, 1, 8, 8), dtype=np.float32)
ROWS: dict[str, Any] = {"input_shape": [6], "nb_classes": 4}
NET: dict[str, Any] = {"backend": "torch", "loss": "torch.nn.CrossEntropyLoss", **ROWS}
IMAGE_NET: dict[str, Any] = {**NET, "input_shape": [1, 8, 8], "nb_classes": 5, "clip_values": [0.0, 1.0], "channels_first": True}


def slow(seconds: float) -> Callable[[], Callable[[Any], Any]]:
    def predict(x: Any) -> Any:
        time.sleep(seconds)
        if x.flat[0] < 0:
            raise RuntimeError("out of ideas")
        return np.full((len(x), 4), 0.25)

    return lambda: predict


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    first = {
        "net": {**NET, "factory": lambda: models.mlp(seed=0), "preprocessing": {"mean": 0.4, "std": 0.5}},
        "two": {**NET, "factory": lambda: models.mlp(seed=2)},
        "images": {**IMAGE_NET, "factory": lambda: models.cnn(seed=0)},
        "slow": {"backend": "blackbox", "factory": slow(0.3), **ROWS},
        "both": {"backend": "ensemble", "members": ["net", "two"], "member_weights": [0.7, 0.3]},
        "labels": {"same_as": "net", "access": "labels"},
        "softmax": {**NET, "factory": lambda: models.mlp(end="Softmax")},
        "binary": {**NET, "factory": lambda: models.mlp(nb_outputs=2), "nb_classes": 2},
    }
    summed = {"path": "torch.nn.CrossEntropyLoss", "args": {"reduction": "sum"}}
    second = {
        "net": {**NET, "factory": lambda: models.mlp(seed=1), "loss": summed, "access": "trainer", "optimizer": "torch.optim.SGD"},
        "images": {**IMAGE_NET, "factory": lambda: models.cnn(seed=1)},
        "single": {**NET, "factory": lambda: models.mlp(seed=3, dtype="float32")},
        "slow": {"backend": "blackbox", "factory": slow(0.3), **ROWS},
        "one": {**NET, "factory": lambda: models.mlp(nb_outputs=1), "nb_classes": 2, "loss": "torch.nn.BCEWithLogitsLoss"},
        "brighter": {**IMAGE_NET, "factory": lambda: models.cnn(seed=1), "clip_values": [0.0, 255.0]},
    }
    with serving(first) as one, serving(second) as other, connect(one) as a, connect(other) as b:
        yield a, b


@pytest.fixture
def members(servers: tuple[Server, Server]) -> list[RemoteEstimator]:
    """Two models of one name on two servers; the loss of one is a mean, of the other a sum."""
    return [server.estimator("net") for server in servers]


@pytest.fixture
def both(members: list[RemoteEstimator]) -> RemoteEnsemble:
    return RemoteEnsemble(members, [0.7, 0.3])


@pytest.fixture
def images(servers: tuple[Server, Server]) -> RemoteEnsemble:
    return RemoteEnsemble([server.estimator("images") for server in servers])


def test_outputs_are_the_weighted_sum_of_members_on_several_servers(members: list[RemoteEstimator], both: RemoteEnsemble) -> None:
    parts = np.stack([0.7 * members[0].predict(X), 0.3 * members[1].predict(X)])
    np.testing.assert_array_equal(both.predict(X, raw=True), parts)
    np.testing.assert_allclose(both.predict(X), parts.sum(0), rtol=1e-15)
    np.testing.assert_allclose(both.predict(X, batch_size=2), both.predict(X), rtol=1e-12)
    alike = RemoteEnsemble(members)
    assert alike.weights == (0.5, 0.5)
    np.testing.assert_allclose(alike.predict(X), 0.5 * members[0].predict(X) + 0.5 * members[1].predict(X), rtol=1e-15)


@pytest.mark.parametrize(
    "y", [Y, Y.tolist(), np.eye(4)[Y], RANDOM.dirichlet(np.ones(4), 7)], ids=["indices", "list", "rows", "soft"]
)
def test_the_loss_gradient_is_that_of_the_mean_loss(both: RemoteEnsemble, y: Any) -> None:
    rows = both.compute_loss(X, y)
    assert rows.shape == (7,)
    assert both.loss(X, y, reduction="mean").shape == ()
    np.testing.assert_allclose(both.loss(X, y, reduction="mean"), rows.mean(), rtol=1e-12)
    np.testing.assert_allclose(both.loss(X, y, reduction="sum"), rows.sum(), rtol=1e-12)
    # In float64: truncation 1e-10, rounding 1e-11.
    expected = gradient(lambda x: both.compute_loss(x, y), X) / 7
    np.testing.assert_allclose(both.loss_gradient(X, y), expected, rtol=1e-6, atol=1e-9)
    raw = both.loss_gradient(X, y, raw=True)
    assert raw.shape == (2, 7, 6)
    np.testing.assert_allclose(raw.sum(0), both.loss_gradient(X, y), rtol=1e-12)


def test_class_gradients_and_products_are_those_of_the_outputs(both: RemoteEnsemble) -> None:
    expected = gradient(both.predict, X)
    gradients = both.class_gradient(X)
    np.testing.assert_allclose(gradients, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(both.class_gradient(X, label=2)[:, 0], expected[:, 2], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(both.class_gradient(X, label=Y.tolist())[:, 0], expected[np.arange(7), Y], rtol=1e-6, atol=1e-9)
    assert both.class_gradient(X, raw=True).shape == (2, 7, 4, 6)
    cotangent = RANDOM.normal(size=(7, 4))
    np.testing.assert_allclose(both.vjp(X, cotangent), np.einsum("nc,nci->ni", cotangent, gradients), rtol=1e-12)
    squares = both.custom_loss_gradient(lambda outputs: 2 * outputs, X)
    np.testing.assert_allclose(squares, gradient(lambda x: (both.predict(x) ** 2).sum(1), X), rtol=1e-6, atol=1e-9)


def test_it_answers_what_a_served_ensemble_answers(servers: tuple[Server, Server]) -> None:
    served = servers[0].estimator("both")
    here = RemoteEnsemble([servers[0].estimator("net"), servers[0].estimator("two")], [0.7, 0.3])
    assert (here.card.operations, here.card.answers) == (served.card.operations, served.card.answers)
    for call in (
        lambda e: e.predict(X),
        lambda e: e.predict(X, raw=True),
        lambda e: e.compute_loss(X, Y),
        lambda e: e.compute_loss(X, Y, reduction="mean"),
        lambda e: e.loss_gradient(X, Y),
        lambda e: e.class_gradient(X),
        lambda e: e.class_gradient(X, label=Y),
        lambda e: e.vjp(X, np.ones((7, 4))),
    ):
        np.testing.assert_allclose(call(here), call(served), rtol=1e-12, atol=1e-15)


def test_a_served_ensemble_may_be_a_member(servers: tuple[Server, Server]) -> None:
    served, other = servers[0].estimator("both"), servers[1].estimator("net")
    outer = RemoteEnsemble([served, other])
    assert outer.card.loss == "0.5 * (0.7 * CrossEntropyLoss + 0.3 * CrossEntropyLoss) + 0.5 * CrossEntropyLoss"
    np.testing.assert_allclose(outer.predict(X), 0.5 * served.predict(X) + 0.5 * other.predict(X), rtol=1e-15)
    np.testing.assert_allclose(outer.loss_gradient(X, Y), gradient(lambda x: outer.loss(x, Y), X) / 7, rtol=1e-6, atol=1e-9)


def test_members_work_at_the_same_time(servers: tuple[Server, Server]) -> None:
    slow = [server.estimator("slow") for server in servers]
    ensemble = RemoteEnsemble(slow)
    ensemble.predict(X)
    began_s = time.monotonic()
    ensemble.predict(X)
    # Each takes 0.3 s.
    assert time.monotonic() - began_s < 0.5


def test_threads_may_share_one(both: RemoteEnsemble) -> None:
    rows = [RANDOM.random((n, 6)) for n in range(1, 41)]
    expected = [both.predict(x) for x in rows]
    with ThreadPoolExecutor(16) as pool:
        answered = list(pool.map(both.predict, rows))
    for answer, right in zip(answered, expected, strict=True):
        np.testing.assert_array_equal(answer, right)


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copy", "deep", "pickle"]
)
def test_it_can_be_copied_and_pickled(both: RemoteEnsemble, again: Callable[[Any], Any]) -> None:
    both.set_learning_phase(False)
    expected = both.predict(X)
    other = again(both)
    np.testing.assert_array_equal(other.predict(X), expected)
    assert (other.learning_phase, other.weights) == (False, both.weights)


def test_a_forked_child_can_use_it(both: RemoteEnsemble) -> None:
    expected = both.predict(X)
    assert threading.active_count() > 1
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if np.array_equal(both.predict(X), expected) else 2
        finally:
            os._exit(code)
    deadline_s = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    if ended[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)


def test_the_card_says_what_members_have_in_common(both: RemoteEnsemble, servers: tuple[Server, Server]) -> None:
    card = both.card
    assert (card.backend, card.task, card.input_shape, card.nb_classes) == ("ensemble", "classification", (6,), 4)
    assert (card.input_dtype, card.output_kind, card.access) == (np.float64, "logits", "gradients")
    assert (card.loss_reduction, card.loss) == ("mean", "0.7 * CrossEntropyLoss + 0.3 * CrossEntropyLoss")
    assert card.operations == {"predict", "loss", "loss_gradient", "class_gradient", "vjp"}
    assert card.layer_names == ()
    # Nobody says where channels are: the habit of the members' framework holds.
    assert (card.channels_first, art_estimator(both).channels_first) == (None, True)
    black = RemoteEnsemble([servers[0].estimator("net"), servers[1].estimator("slow")], output="values")
    assert (black.card.operations, black.card.output_kind) == ({"predict"}, "values")
    with pytest.raises(Unsupported, match=f"lacks loss_gradient: .* these lack it: member 'slow' at {servers[1].address}"):
        black.loss_gradient(X, Y)


def test_precision_is_the_wider_of_the_members(servers: tuple[Server, Server]) -> None:
    single = servers[1].estimator("single")
    assert RemoteEnsemble([single]).predict(X).dtype == np.float32
    mixed = RemoteEnsemble([servers[0].estimator("net"), single])
    assert mixed.predict(X).dtype == mixed.loss_gradient(X, Y).dtype == np.float64


def test_a_fit_of_a_member_shows_after_a_refresh(both: RemoteEnsemble, members: list[RemoteEstimator]) -> None:
    before = both.predict(X)
    assert both.card.version == "net(initial) net(initial)"
    members[1].fit(X, Y, nb_epochs=1)
    try:
        assert not np.array_equal(both.predict(X), before)
        assert both.refresh().version == "net(initial) net(fit-1)"
    finally:
        members[1].reset()


def test_an_error_is_the_members_and_names_it(servers: tuple[Server, Server], free_port: int) -> None:
    ensemble = RemoteEnsemble([servers[0].estimator("net"), servers[1].estimator("slow")], output="values")
    with pytest.raises(ModelFailed, match=f"member 'slow' at {servers[1].address}: .*out of ideas") as caught:
        ensemble.predict(-X)
    assert caught.value.reason != 0
    with serving({"net": {**NET, "factory": models.mlp}}) as address, connect(address) as brief:
        gone = brief.estimator("net")
    # An error that is also an OSError writes itself in its own way.
    with pytest.raises(GradwireError, match=rf"^member 'net' at {address}: no gradwire server") as ended:
        RemoteEnsemble([gone, servers[0].estimator("net")]).predict(X)
    assert isinstance(ended.value, ConnectionError)


def test_what_is_wrong_is_refused_before_anything_is_sent(both: RemoteEnsemble, members: list[RemoteEstimator]) -> None:
    before = [member.usage() for member in members]
    for call in (both.predict, lambda x: both.loss_gradient(x, Y), both.class_gradient, lambda x: both.vjp(x, np.ones((7, 4)))):
        with pytest.raises(ShapeError, match="x has shape .* 'ensemble of net, net' takes"):
            call(X[:, :3])
    for call in (both.loss, both.loss_gradient):
        with pytest.raises(LabelError):
            call(X, Y + 2)
    with pytest.raises(LabelError):
        both.class_gradient(X, label=4)
    with pytest.raises(ShapeError, match="cotangent"):
        both.vjp(X, np.ones((6, 4)))
    with pytest.raises(InvalidCall, match="reduction"):
        both.loss(X, Y, reduction="median")
    assert [member.usage() for member in members] == before


def test_what_an_ensemble_does_not_have_says_so(both: RemoteEnsemble) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "its members' outputs": lambda: both.compute_loss_from_predictions(both.predict(X), Y),
        "fit its members": lambda: both.fit(X, Y),
        "no layers": lambda: both.vjp(X, np.ones((7, 4)), layer="0"),
        "layer '0'": lambda: both.custom_loss_gradient(lambda outputs: outputs, X, layer_name="0"),
        "preprocessing cannot be changed remotely.* clip_values can": lambda: both.set_params(preprocessing=(0.0, 1.0)),
        "logits=True": lambda: both.predict(X, logits=True),
        "no uncertainty": lambda: both.predict_uncertainty(X),
    }
    for told, call in calls.items():
        with pytest.raises(Unsupported, match=told):
            call()


@pytest.mark.parametrize("weights", [[1.0], [1.0, float("nan")], ["a", "b"], 3, [[1.0], [2.0]]])
def test_weights_that_are_no_numbers_are_refused(members: list[RemoteEstimator], weights: Any) -> None:
    with pytest.raises(InvalidCall, match="weights is .* expected 2 finite numbers, one per member"):
        RemoteEnsemble(members, weights)


@pytest.mark.parametrize("wrong", [[], None, ["net"], "net", 3])
def test_members_that_are_no_estimators_are_refused(wrong: Any) -> None:
    with pytest.raises(InvalidCall, match="members is .* expected a list of at least one remote estimator"):
        RemoteEnsemble(wrong)


def test_members_that_cannot_be_added_up_are_refused(servers: tuple[Server, Server]) -> None:
    def refused(first: str, second: str, why: str, **given: Any) -> None:
        with pytest.raises(InvalidCall, match=why):
            RemoteEnsemble([servers[0].estimator(first), servers[1].estimator(second)], **given)

    refused("images", "net", r"members: input_shape differs: images \(1, 8, 8\), net \(6,\)")
    refused("binary", "net", r"members: output_shape differs: binary \(2,\), net \(4,\)")
    refused("binary", "one", r"members: output_shape differs: binary \(2,\), one \(1,\)")
    refused("softmax", "net", "outputs are softmax probabilities, net logits; expected all logits or all probabilities")
    refused("labels", "net", "outputs are labels labels, net logits")
    refused("softmax", "slow", "add up to 2; a sum of probabilities needs weights", weights=[1, 1])
    refused("softmax", "net", "output is 'labels'; expected", output="labels")
    refused("images", "brighter", "clip_values differs: .* pass clip_values= for the ensemble")
    images = [servers[0].estimator("images"), servers[1].estimator("brighter")]
    np.testing.assert_array_equal(RemoteEnsemble(images, clip_values=(0.0, 1.0)).clip_values, [0.0, 1.0])
    votes = RemoteEnsemble([servers[0].estimator("labels"), servers[1].estimator("slow")], output="probabilities")
    assert (votes.card.access, votes.card.operations) == ("labels", {"predict"})
    np.testing.assert_allclose(votes.predict(X).sum(1), 1)


def test_members_that_come_apart_are_not_added_up(both: RemoteEnsemble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(both.members[1], "predict", lambda *_: np.zeros((7, 1)))
    with pytest.raises(ServerError, match=r"member 'net' at .* answers \(7, 1\), member 'net' at .* \(7, 4\)"):
        both.predict(X)


def plain() -> EnsembleClassifier:
    """In this process, what the two servers have."""

    def member(seed: int) -> PyTorchClassifier:
        return PyTorchClassifier(
            models.cnn(seed=seed), torch.nn.CrossEntropyLoss(), (1, 8, 8), 5, clip_values=(0, 1), device_type="cpu"
        )

    return EnsembleClassifier([member(0), member(1)], clip_values=(0, 1), channels_first=True)


def test_an_art_estimator_of_it_is_arts_ensemble(images: RemoteEnsemble) -> None:
    ours, theirs = art_estimator(images), plain()
    assert isinstance(ours, (ClassifierMixin, NeuralNetworkMixin, LossGradientsMixin, ClassGradientsMixin))
    assert (ours.nb_classes, ours.input_shape, ours.channels_first) == (5, (1, 8, 8), True)
    np.testing.assert_array_equal(ours.clip_values, [0, 1])
    one_hot = np.eye(5)[[0, 1, 2, 3, 4]]
    # Sums of float32 in another order.
    close = {"rtol": 1e-5, "atol": 1e-7}
    np.testing.assert_allclose(ours.predict(IMAGES), theirs.predict(IMAGES), **close)
    np.testing.assert_allclose(ours.predict(IMAGES, raw=True), theirs.predict(IMAGES, raw=True), **close)
    np.testing.assert_allclose(ours.loss_gradient(IMAGES, one_hot), theirs.loss_gradient(IMAGES, one_hot), **close)
    np.testing.assert_allclose(ours.class_gradient(IMAGES), theirs.class_gradient(IMAGES), **close)
    np.testing.assert_allclose(ours.class_gradient(IMAGES, label=2), theirs.class_gradient(IMAGES, label=2), **close)
    for impossible in (
        lambda: ours.fit(IMAGES, one_hot),
        lambda: ours.get_activations(IMAGES, 0, 2),
        lambda: ours.clone_for_refitting(),
        lambda: ours.save("version"),
        lambda: ours.compute_loss_from_predictions(one_hot, one_hot),
    ):
        with pytest.raises(NotImplementedError):
            impossible()


def test_attacks_run_against_it_as_against_arts(images: RemoteEnsemble) -> None:
    ours, theirs = art_estimator(images), plain()
    y = theirs.predict(IMAGES).argmax(1)
    for attack in (
        lambda e: ProjectedGradientDescent(e, eps=0.2, eps_step=0.05, max_iter=5, verbose=False).generate(IMAGES),
        lambda e: DeepFool(e, max_iter=10, verbose=False).generate(IMAGES),
    ):
        np.testing.assert_allclose(attack(ours), attack(theirs), atol=1e-4)
    # The nets are not trained: random images, HopSkipJump's own beginning, are all of one class.
    begin = ProjectedGradientDescent(ours, eps=1.0, eps_step=0.2, max_iter=20, verbose=False).generate(IMAGES[:2])
    assert (ours.predict(begin).argmax(1) != y[:2]).all()
    hop = HopSkipJump(ours, max_iter=2, max_eval=50, init_eval=10, verbose=False)
    adversarial = hop.generate(IMAGES[:2], x_adv_init=begin)
    assert (ours.predict(adversarial).argmax(1) != y[:2]).all()
    assert np.linalg.norm(adversarial - IMAGES[:2]) < np.linalg.norm(begin - IMAGES[:2])
    np.testing.assert_array_equal(copy.deepcopy(ours).predict(IMAGES), ours.predict(IMAGES))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ours)).predict(IMAGES), ours.predict(IMAGES))


def test_it_is_a_torch_module_too(images: RemoteEnsemble) -> None:
    leaf = torch.from_numpy(IMAGES.copy()).requires_grad_()
    remote_module(images)(leaf).square().sum().backward()
    assert leaf.grad is not None
    own = torch.from_numpy(IMAGES.copy()).requires_grad_()
    (0.5 * models.cnn(seed=0)(own) + 0.5 * models.cnn(seed=1)(own)).square().sum().backward()
    assert own.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), own.grad.numpy(), rtol=1e-4, atol=1e-6)
    assert art_pytorch_classifier(images).predict(IMAGES).shape == (5, 5)
