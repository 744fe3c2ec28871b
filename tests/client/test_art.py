"""An ART estimator of a remote model: what attacks find in its class is what its caller may do."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks import evasion, extraction, inference
from art.data_generators import NumpyDataGenerator
from art.estimators.classification import PyTorchClassifier
from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin
from art.estimators.estimator import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin
from art.estimators.regression import RegressorMixin
from art.exceptions import EstimatorError
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

import models
from gradwire.client import Server, connect
from gradwire.client.art import art_estimator, art_pytorch_classifier
from gradwire.client.errors import InvalidCall, LayerError, Unsupported
from gradwire.server import serving

X = np.random.default_rng(0).random((6, 1, 8, 8), dtype=np.float32)
Y = np.array([0, 1, 2, 3, 4, 0])
ROWS = np.random.default_rng(1).random((30, 4))
CLASSES = np.arange(30) % 3


def constant(x: np.ndarray) -> np.ndarray:
    return np.tile(np.float32([0.1, 0.2, 0.3, 0.2, 0.2]), (len(x), 1))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    images: dict[str, Any] = {"input_shape": [1, 8, 8], "nb_classes": 5, "clip_values": [0.0, 1.0]}
    torch_model: dict[str, Any] = {"backend": "torch", "factory": models.cnn, "loss": "torch.nn.CrossEntropyLoss", **images}
    sgd = {"path": "torch.optim.SGD", "args": {"lr": 0.1}}
    vectors: dict[str, Any] = {"backend": "sklearn", "input_shape": [4]}
    mlp: dict[str, Any] = {"backend": "torch", "input_shape": [6]}
    logistic = LogisticRegression().fit(ROWS, CLASSES)
    served = {
        "trainer": {**torch_model, "access": "trainer", "optimizer": sgd, "preprocessing": {"mean": 0.5, "std": 0.25}},
        "gradients": torch_model,
        "scores": {"same_as": "gradients", "access": "scores"},
        "labels": {"same_as": "gradients", "access": "labels"},
        "no-loss": {"backend": "torch", "factory": models.cnn, **images},
        "channels-last": {"backend": "blackbox", "factory": lambda: constant, "channels_first": False, **images},
        "blackbox": {"backend": "blackbox", "factory": lambda: constant, "output": "logits", **images},
        # Logits, because ART's APGD refuses probabilities.
        "logistic": {**vectors, "factory": lambda: logistic, "nb_classes": 3, "output": "logits"},
        "logistic-labels": {"same_as": "logistic", "access": "labels"},
        "neighbours": {**vectors, "factory": lambda: KNeighborsClassifier(3).fit(ROWS, CLASSES), "nb_classes": 3},
        "probabilities": {"backend": "torch", "factory": lambda: models.cnn().append(torch.nn.Softmax(dim=1)), **images},
        "torch-regression": {
            **mlp,
            "factory": lambda: models.mlp(nb_outputs=1),
            "task": "regression",
            "loss": "torch.nn.MSELoss",
            "nb_classes": 1,
        },
        "regression": {
            **vectors,
            "factory": lambda: KNeighborsRegressor(1).fit(ROWS, ROWS.sum(1)),
            "task": "regression",
            "nb_classes": 1,
            "clip_values": [[0.0, 0.0, 0.0, 0.0], 1.0],
        },
    }
    with serving(served) as address, connect(address) as connected:
        yield connected


NEURAL = {"trainer", "gradients", "scores", "labels", "no-loss", "channels-last", "probabilities"}
CLASSIFIERS = NEURAL | {"blackbox", "logistic", "logistic-labels", "neighbours"}
LOSS_GRADIENTS = {"trainer", "gradients", "logistic"}
CLASS_GRADIENTS = {"trainer", "gradients", "logistic", "no-loss", "probabilities"}
REGRESSIONS = {"regression", "torch-regression"}

membership, attributes = inference.membership_inference, inference.attribute_inference
partial = functools.partial
ACCEPTED: dict[Callable[..., Any], set[str]] = {
    evasion.BoundaryAttack: CLASSIFIERS,
    evasion.HopSkipJump: CLASSIFIERS,
    partial(evasion.SignOPTAttack, targeted=False): CLASSIFIERS,
    evasion.ZooAttack: CLASSIFIERS,
    evasion.UniversalPerturbation: CLASSIFIERS,
    evasion.TargetedUniversalPerturbation: CLASSIFIERS,
    evasion.VirtualAdversarialMethod: CLASSIFIERS,
    extraction.CopycatCNN: CLASSIFIERS,
    extraction.KnockoffNets: CLASSIFIERS,
    partial(membership.MembershipInferenceBlackBox, input_type="loss"): CLASSIFIERS | REGRESSIONS,
    membership.MembershipInferenceBlackBoxRuleBased: CLASSIFIERS,
    membership.LabelOnlyDecisionBoundary: CLASSIFIERS,
    partial(attributes.AttributeInferenceBlackBox, attack_feature=0): CLASSIFIERS | REGRESSIONS,
    evasion.SimBA: NEURAL,
    evasion.PixelAttack: NEURAL,
    evasion.ThresholdAttack: NEURAL,
    evasion.SquareAttack: NEURAL,
    evasion.SpatialTransformation: NEURAL | {"torch-regression"},
    partial(evasion.FeatureAdversariesNumpy, delta=0.1, layer=0): NEURAL | {"torch-regression"},
    partial(extraction.FunctionallyEquivalentExtraction, num_neurons=4): NEURAL,
    evasion.FastGradientMethod: LOSS_GRADIENTS | {"torch-regression"},
    evasion.ProjectedGradientDescent: LOSS_GRADIENTS | {"torch-regression"},
    evasion.ProjectedGradientDescentNumpy: LOSS_GRADIENTS | {"torch-regression"},
    evasion.BasicIterativeMethod: LOSS_GRADIENTS | {"torch-regression"},
    evasion.MomentumIterativeMethod: LOSS_GRADIENTS | {"torch-regression"},
    evasion.Wasserstein: LOSS_GRADIENTS,
    evasion.LowProFool: LOSS_GRADIENTS,
    evasion.AutoProjectedGradientDescent: LOSS_GRADIENTS,
    evasion.AutoConjugateGradient: LOSS_GRADIENTS,
    evasion.DeepFool: CLASS_GRADIENTS,
    evasion.NewtonFool: CLASS_GRADIENTS,
    evasion.CarliniL2Method: CLASS_GRADIENTS,
    evasion.CarliniL0Method: CLASS_GRADIENTS,
    evasion.CarliniLInfMethod: CLASS_GRADIENTS,
    evasion.ElasticNet: CLASS_GRADIENTS,
    evasion.SaliencyMapMethod: CLASS_GRADIENTS,
    inference.model_inversion.MIFace: CLASS_GRADIENTS,
}


def _name(attack: Any) -> str:
    return str((attack.func if isinstance(attack, partial) else attack).__name__)


@pytest.mark.parametrize("attack", ACCEPTED, ids=_name)
def test_an_attack_accepts_the_models_that_offer_what_it_needs(server: Server, attack: Callable[..., Any]) -> None:
    accepted = set()
    for card in server.models():
        # ValueError: APGD refuses probabilities before it looks at the class.
        with contextlib.suppress(EstimatorError, ValueError):
            attack(art_estimator(server.estimator(card.name)))
            accepted.add(card.name)
    assert accepted == ACCEPTED[attack]


@pytest.mark.parametrize("name", ["labels", "scores"])
def test_a_model_without_gradients_shows_none(server: Server, name: str) -> None:
    estimator = art_estimator(server.estimator(name))
    assert isinstance(estimator, (BaseEstimator, ClassifierMixin, NeuralNetworkMixin))
    assert not isinstance(estimator, (LossGradientsMixin, ClassGradientsMixin))
    for method in ("loss_gradient", "class_gradient", "custom_loss_gradient"):
        assert not hasattr(estimator, method)


def test_the_class_is_made_once_for_models_that_offer_the_same(server: Server) -> None:
    labels, scores, gradients = (type(art_estimator(server.estimator(name))) for name in ("labels", "scores", "gradients"))
    assert labels is scores
    assert labels is not gradients


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copy", "deepcopy", "pickle"]
)
@pytest.mark.parametrize("name", ["gradients", "labels", "regression"])
def test_it_can_be_copied_and_pickled(server: Server, name: str, again: Callable[[Any], Any]) -> None:
    estimator = art_estimator(server.estimator(name))
    estimator.mark = "the caller's own"
    other = again(estimator)
    assert type(other) is type(estimator)
    assert other.mark == "the caller's own"
    x = ROWS if name == "regression" else X
    np.testing.assert_array_equal(other.predict(x), estimator.predict(x))


def test_attacks_can_be_deepcopied_with_their_estimator(server: Server) -> None:
    attack = evasion.FastGradientMethod(art_estimator(server.estimator("gradients")), eps=0.1)
    np.testing.assert_array_equal(copy.deepcopy(attack).generate(X), attack.generate(X))


def test_what_art_asks_for_is_on_it(server: Server) -> None:
    estimator = art_estimator(server.estimator("gradients"))
    assert estimator.nb_classes == 5
    assert estimator.input_shape == (1, 8, 8)
    assert estimator.channels_first is True
    assert estimator.layer_names == [str(i) for i in range(7)]
    assert estimator.preprocessing is None
    assert estimator.preprocessing_operations == []
    assert estimator.model.card.name == "gradients"
    np.testing.assert_array_equal(estimator.clip_values, np.float32([0, 1]))
    assert estimator.clip_values.dtype == np.float32
    assert "'gradients'" in repr(estimator)
    # Rows in a list, and in float64, as attacks under numpy 2 send them.
    np.testing.assert_array_equal(estimator.predict(X.astype(np.float64).tolist()), estimator.predict(X))


def test_where_channels_are_follows_the_owner_then_the_framework(server: Server) -> None:
    assert art_estimator(server.estimator("labels")).channels_first is True
    assert art_estimator(server.estimator("channels-last")).channels_first is False
    assert isinstance(art_estimator(server.estimator("channels-last")), NeuralNetworkMixin)


def test_a_regressor_is_one(server: Server) -> None:
    estimator = art_estimator(server.estimator("regression"))
    assert isinstance(estimator, RegressorMixin)
    assert not isinstance(estimator, (ClassifierMixin, NeuralNetworkMixin))
    np.testing.assert_allclose(estimator.predict(ROWS)[:, 0], ROWS.sum(1), rtol=1e-6)
    # A bound that differs between features, and one that does not.
    np.testing.assert_array_equal(estimator.clip_values, np.float32([[0] * 4, [1] * 4]))
    estimator.set_params(**estimator.get_params())


@pytest.fixture
def plain() -> PyTorchClassifier:
    """In this process, what "gradients" is there."""
    return PyTorchClassifier(models.cnn(), torch.nn.CrossEntropyLoss(), (1, 8, 8), 5, clip_values=(0, 1), device_type="cpu")


def test_its_operations_are_those_of_arts_estimator(server: Server, plain: PyTorchClassifier) -> None:
    remote, one_hot = art_estimator(server.estimator("gradients")), np.eye(5)[Y]

    def same(operation: Callable[[Any], Any]) -> None:
        expected, actual = operation(plain), operation(remote)
        assert np.shape(actual) == np.shape(expected)
        # The order of float32 sums differs in gradients: see tests/attacks/test_parity.py.
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)

    same(lambda e: e.predict(X, batch_size=2))
    same(lambda e: e.predict(X, standardise_output=True))
    same(lambda e: e.loss_gradient(X, one_hot))
    same(lambda e: e.loss_gradient(X, one_hot, sampling=False))
    same(lambda e: e.class_gradient(X))
    same(lambda e: e.class_gradient(X, label=3))
    same(lambda e: e.class_gradient(X, label=list(Y)))
    same(lambda e: e.class_gradient(X[:1]))
    same(lambda e: e.compute_loss(X, one_hot, reduction="none"))
    same(lambda e: e.compute_loss(X, one_hot, reduction="mean"))
    for layer in (0, "3", 6):
        same(lambda e, layer=layer: e.get_activations(X, layer, 2))
    np.testing.assert_allclose(remote.compute_loss_from_predictions(remote.predict(X), Y), remote.compute_loss(X, Y), rtol=1e-6)


def test_custom_losses_come_with_their_derivative(server: Server) -> None:
    estimator = art_estimator(server.estimator("gradients"))
    gradient = estimator.custom_loss_gradient(lambda seen, wanted: 2 * (seen - wanted), X, X[::-1], layer_name="4")

    module, leaf = models.cnn().eval()[:5], torch.from_numpy(X).requires_grad_()
    ((module(leaf) - module(torch.from_numpy(X[::-1].copy())).detach()) ** 2).sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_what_it_cannot_do_is_an_error_that_art_knows(server: Server) -> None:
    estimator = art_estimator(server.estimator("labels"))
    impossible: list[Callable[[], Any]] = [
        lambda: estimator.compute_loss(X, Y),
        lambda: estimator.compute_loss_from_predictions(np.eye(5)[Y], Y),
        lambda: estimator.get_activations(X, 0, 2),
        lambda: estimator.fit(X, Y),
        lambda: estimator.fit_generator(None),
        lambda: estimator.clone_for_refitting(),
        lambda: estimator.save("version"),
    ]
    for call in impossible:
        with pytest.raises(NotImplementedError, match="'labels' does not offer .* access 'labels'; it offers: predict"):
            call()
    gradients = art_estimator(server.estimator("gradients"))
    with pytest.raises(Unsupported, match="framework=True"):
        gradients.get_activations(X, 0, 2, True)
    with pytest.raises(LayerError):
        gradients.get_activations(X, "nowhere")


def test_parameters_are_changed_for_this_caller_alone(server: Server) -> None:
    estimator = art_estimator(server.estimator("trainer"))
    params = estimator.get_params()
    assert [float(value) for value in params["preprocessing"]] == [0.5, 0.25]
    before = estimator.predict(X)

    estimator.set_params(**params)
    np.testing.assert_array_equal(estimator.predict(X), before)
    estimator.set_params(clip_values=(-1, 2), preprocessing=(0.0, 1.0))
    np.testing.assert_array_equal(estimator.clip_values, [-1, 2])
    np.testing.assert_allclose(estimator.predict(X), art_estimator(server.estimator("gradients")).predict(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(copy.deepcopy(estimator).predict(X), estimator.predict(X))
    np.testing.assert_array_equal(art_estimator(server.estimator("trainer")).predict(X), before)

    for params in ({"nb_classes": 7}, {"channels_first": False}, {"preprocessing_defences": [object()]}, {"unknown": 1}):
        with pytest.raises(Unsupported, match=next(iter(params))):
            estimator.set_params(**params)


def test_fits_change_the_model_on_the_server(server: Server, tmp_path: Any) -> None:
    estimator = art_estimator(server.estimator("trainer"))
    before = estimator.compute_loss(X, Y, reduction="mean")
    estimator.save("before")

    estimator.fit(X, np.eye(5)[Y], batch_size=6, nb_epochs=5, verbose=0, scheduler=None)
    fitted = estimator.compute_loss(X, Y, reduction="mean")
    assert fitted < before
    estimator.fit_generator(NumpyDataGenerator(X, np.eye(5)[Y], batch_size=6), nb_epochs=5)
    assert estimator.compute_loss(X, Y, reduction="mean") < fitted
    with pytest.raises(Unsupported, match="scheduler"):
        estimator.fit(X, Y, scheduler=object())
    with pytest.raises(Unsupported, match="path"):
        estimator.save("elsewhere", path=str(tmp_path))

    clone = estimator.clone_for_refitting()
    assert type(clone) is type(estimator)
    clone.fit(X, Y, batch_size=6, nb_epochs=1)
    clone.model.delete()
    estimator.model.restore("before")
    # The mean over rows that were computed together, both times.
    assert estimator.compute_loss(X, Y, reduction="mean") == before


def test_a_model_can_be_stolen_into_another_remote_one(server: Server) -> None:
    thief = art_estimator(server.estimator("trainer")).clone_for_refitting()
    victim = art_estimator(server.estimator("labels"))
    before = thief.compute_loss(X, victim.predict(X), reduction="mean")
    attack = extraction.CopycatCNN(victim, batch_size_fit=6, batch_size_query=6, nb_epochs=5, nb_stolen=6)
    assert attack.extract(X, thieved_classifier=thief) is thief
    assert thief.compute_loss(X, victim.predict(X), reduction="mean") < before
    thief.model.delete()


def test_arts_own_classifier_wraps_a_remote_model(
    server: Server, plain: PyTorchClassifier, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A copy of such a classifier goes through a file of weights.
    monkeypatch.setattr("art.config.ART_DATA_PATH", str(tmp_path))
    wrapped = art_pytorch_classifier(server.estimator("gradients"))
    assert isinstance(wrapped, PyTorchClassifier)
    np.testing.assert_array_equal(wrapped.predict(X), plain.predict(X))
    np.testing.assert_array_equal(wrapped.loss_gradient(X, np.eye(5)[Y]), plain.loss_gradient(X, np.eye(5)[Y]))
    np.testing.assert_array_equal(wrapped.clip_values, [0, 1])
    for other in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        np.testing.assert_array_equal(other.predict(X), plain.predict(X))


def test_arts_own_classifier_needs_vector_jacobian_products_and_logits(server: Server) -> None:
    with pytest.raises(Unsupported, match="does not offer vjp"):
        art_pytorch_classifier(server.estimator("scores"))
    with pytest.raises(Unsupported, match="model for regression"):
        art_pytorch_classifier(server.estimator("torch-regression"))
    with pytest.raises(InvalidCall, match="outputs of 'probabilities' are probabilities"):
        art_pytorch_classifier(server.estimator("probabilities"))
    wrapped = art_pytorch_classifier(server.estimator("probabilities"), torch.nn.NLLLoss())
    assert wrapped.class_gradient(X, 3).shape == (6, 1, 1, 8, 8)
