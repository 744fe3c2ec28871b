"""ART's attacks find the same examples on a remote model as on ART's own estimator of it in this process."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    AutoAttack,
    AutoConjugateGradient,
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    BoundaryAttack,
    CarliniL0Method,
    CarliniL2Method,
    CarliniLInfMethod,
    DeepFool,
    ElasticNet,
    FastGradientMethod,
    FeatureAdversariesNumpy,
    HopSkipJump,
    MomentumIterativeMethod,
    NewtonFool,
    PixelAttack,
    ProjectedGradientDescent,
    SaliencyMapMethod,
    SignOPTAttack,
    SimBA,
    SpatialTransformation,
    SquareAttack,
    UniversalPerturbation,
    ZooAttack,
)
from art.attacks.inference.membership_inference import MembershipInferenceBlackBoxRuleBased
from art.estimators.classification import BlackBoxClassifierNeuralNetwork, PyTorchClassifier, SklearnClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import nn

from gradwire.client import Server
from gradwire.client.art import art_estimator, art_pytorch_classifier

from .conftest import Digits, two_digits

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::RuntimeWarning")

Make = Callable[[Any], Any]

QUIET = {"verbose": False}
LINF = {"eps": 0.2, "eps_step": 0.05, "max_iter": 10, **QUIET}
LONG_STEPS = {"learning_rate": 0.1, "max_iter": 10, **QUIET}

EXACT = 0.0
"""Predictions are the same operations on the same batches, so that every decision is the same."""
LAST_DIGIT = 1e-6
"""A mean-reduced loss is divided by n before its backward here, and after it there; a class gradient of one or two rows is
one backward of repeated rows there, and one of each class here. Both differ in float32's last digit: 2e-7 measured, rows near 1."""


@pytest.fixture(autouse=True)
def seeded_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """HopSkipJump and Boundary start from a generator of their own that they do not seed."""
    original = np.random.RandomState
    monkeypatch.setattr(np.random, "RandomState", lambda seed=0: original(seed))


@pytest.fixture(scope="module")
def plain(cnn: nn.Module) -> PyTorchClassifier:
    """ART's estimator in this process."""
    return PyTorchClassifier(copy.deepcopy(cnn), nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu")


@pytest.fixture(scope="module")
def plain_probabilities(cnn: nn.Module) -> PyTorchClassifier:
    module = nn.Sequential(copy.deepcopy(cnn), nn.Softmax(dim=1))
    return PyTorchClassifier(module, nn.NLLLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu")


@pytest.fixture(scope="module")
def plain_labels(cnn: nn.Module) -> BlackBoxClassifierNeuralNetwork:
    """One-hot decisions. The cast is there for numpy 2, where these attacks hand float64 to float32 models."""

    def decide(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            outputs = cnn(torch.from_numpy(np.asarray(x, np.float32))).numpy()
        return np.eye(10, dtype=np.float32)[outputs.argmax(axis=1)]

    return BlackBoxClassifierNeuralNetwork(decide, (1, 8, 8), 10, clip_values=(0.0, 1.0), preprocessing=None)


def _generate(make: Make, estimator: Any, x: np.ndarray, **given: Any) -> np.ndarray:
    np.random.seed(0)
    random.seed(0)
    torch.manual_seed(0)
    return make(estimator).generate(x.copy(), **given)


def _assert_same(make: Make, remote: Any, local: Any, x: np.ndarray, *, atol: float, **given: Any) -> None:
    expected = _generate(make, local, x, **given)
    actual = _generate(make, remote, x, **given)
    assert np.abs(expected - x).max() > 0.05, "the attack did nothing; its settings prove nothing"
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


GRADIENTS: dict[str, Make] = {
    "FGSM": lambda e: FastGradientMethod(e, eps=0.2),
    "PGD": lambda e: ProjectedGradientDescent(e, num_random_init=1, **LINF),
    "PGD L2": lambda e: ProjectedGradientDescent(e, norm=2, eps=1.0, eps_step=0.2, max_iter=10, **QUIET),
    "BIM": lambda e: BasicIterativeMethod(e, **LINF),
    "momentum": lambda e: MomentumIterativeMethod(e, **LINF),
    "APGD": lambda e: AutoProjectedGradientDescent(e, nb_random_init=1, loss_type=None, **LINF),
    "ACG": lambda e: AutoConjugateGradient(e, nb_random_init=1, loss_type=None, **LINF),
    "universal": lambda e: UniversalPerturbation(e, attacker="fgsm", attacker_params={"eps": 0.1}, max_iter=1, eps=0.2, **QUIET),
    "DeepFool": lambda e: DeepFool(e, max_iter=10, batch_size=8, **QUIET),
    "DeepFool, rows alone": lambda e: DeepFool(e, max_iter=10, batch_size=1, **QUIET),
    "NewtonFool": lambda e: NewtonFool(e, max_iter=10, batch_size=8, **QUIET),
    "JSMA": lambda e: SaliencyMapMethod(e, theta=0.3, gamma=0.3, batch_size=8, **QUIET),
    "Carlini L2": lambda e: CarliniL2Method(e, initial_const=1.0, binary_search_steps=3, batch_size=8, **LONG_STEPS),
    "Carlini Linf": lambda e: CarliniLInfMethod(e, initial_const=1.0, largest_const=1.5, batch_size=8, **LONG_STEPS),
    "Carlini L0": lambda e: CarliniL0Method(e, initial_const=10.0, binary_search_steps=1, batch_size=8, **LONG_STEPS),
    "elastic net": lambda e: ElasticNet(e, initial_const=1.0, binary_search_steps=3, batch_size=8, **LONG_STEPS),
}


@pytest.mark.parametrize("attack", GRADIENTS)
def test_attacks_with_gradients_find_what_they_find_locally(
    server: Server, plain: PyTorchClassifier, digits: Digits, attack: str
) -> None:
    remote = art_estimator(server.estimator("cnn"))
    _assert_same(GRADIENTS[attack], remote, plain, digits.test(8).x, atol=LAST_DIGIT)


def test_true_and_target_labels_are_taken_as_indices_and_as_rows(server: Server, plain: PyTorchClassifier, digits: Digits) -> None:
    remote, (x, y) = art_estimator(server.estimator("cnn")), digits.test(8)
    targets = (y + 1) % 10
    for labels in (targets, np.eye(10)[targets]):
        _assert_same(lambda e: ProjectedGradientDescent(e, targeted=True, **LINF), remote, plain, x, y=labels, atol=LAST_DIGIT)


def test_activations_drive_feature_adversaries(server: Server, plain: PyTorchClassifier, digits: Digits) -> None:
    remote, x = art_estimator(server.estimator("cnn")), digits.test(2).x
    _assert_same(lambda e: FeatureAdversariesNumpy(e, delta=0.2, layer=6), remote, plain, x[:1], y=x[1:], maxiter=5, atol=EXACT)


SCORES: dict[str, Make] = {
    "Square": lambda e: SquareAttack(e, max_iter=50, eps=0.2, **QUIET),
    "ZOO": lambda e: ZooAttack(
        e,
        max_iter=20,
        binary_search_steps=1,
        initial_const=10.0,
        learning_rate=0.1,
        variable_h=0.01,
        nb_parallel=32,
        use_resize=False,
        use_importance=False,
        **QUIET,
    ),
    "spatial": lambda e: SpatialTransformation(
        e, max_translation=20.0, num_translations=2, max_rotation=20.0, num_rotations=2, **QUIET
    ),
}


@pytest.mark.parametrize("attack", SCORES)
def test_attacks_on_scores_find_what_they_find_locally(
    server: Server, plain: PyTorchClassifier, digits: Digits, attack: str
) -> None:
    remote = art_estimator(server.estimator("cnn-scores"))
    _assert_same(SCORES[attack], remote, plain, digits.test(4).x, atol=EXACT)


@pytest.mark.parametrize("basis", ["px", "dct"])
def test_simba_finds_on_probabilities_what_it_finds_locally(
    server: Server, plain_probabilities: PyTorchClassifier, digits: Digits, basis: str
) -> None:
    remote = art_estimator(server.estimator("cnn-probabilities"))
    _assert_same(
        lambda e: SimBA(e, attack=basis, freq_dim=4, max_iter=100, epsilon=0.3, **QUIET),
        remote,
        plain_probabilities,
        digits.test(3).x,
        atol=EXACT,
    )


LABELS: dict[str, Make] = {
    "HopSkipJump": lambda e: HopSkipJump(e, max_iter=3, max_eval=200, init_eval=20, **QUIET),
    "HopSkipJump Linf": lambda e: HopSkipJump(e, norm=np.inf, max_iter=3, max_eval=200, init_eval=20, **QUIET),
    "Boundary": lambda e: BoundaryAttack(e, targeted=False, max_iter=10, **QUIET),
    "SignOPT": lambda e: SignOPTAttack(e, targeted=False, max_iter=1, query_limit=200, k=10, num_trial=5, **QUIET),
    "pixel": lambda e: PixelAttack(e, th=2, es=1, max_iter=5),
}


@pytest.mark.parametrize("attack", LABELS)
def test_attacks_on_labels_find_what_they_find_locally(
    server: Server, plain_labels: BlackBoxClassifierNeuralNetwork, digits: Digits, attack: str
) -> None:
    remote = art_estimator(server.estimator("cnn-labels"))
    _assert_same(LABELS[attack], remote, plain_labels, digits.test(3).x, atol=EXACT)


def test_hop_skip_jump_gets_the_same_decisions_from_labels_as_from_scores(server: Server, digits: Digits) -> None:
    labels, scores = (art_estimator(server.estimator(name)) for name in ("cnn-labels", "cnn-scores"))
    _assert_same(LABELS["HopSkipJump"], labels, scores, digits.test(3).x, atol=EXACT)


@pytest.mark.parametrize("name", ["cnn", "cnn-scores", "cnn-labels"])
def test_members_are_inferred_from_any_access(server: Server, plain: PyTorchClassifier, digits: Digits, name: str) -> None:
    remote, (x, y) = art_estimator(server.estimator(name)), digits.test(200)
    expected = MembershipInferenceBlackBoxRuleBased(plain).infer(x, y)
    assert set(expected) == {0, 1}
    np.testing.assert_array_equal(MembershipInferenceBlackBoxRuleBased(remote).infer(x, y), expected)


def _auto_attack(estimator: Any) -> AutoAttack:
    """ART's default list, with fewer steps."""
    apgd = {"eps": 0.1, "eps_step": 0.03, "max_iter": 5, "nb_random_init": 1, **QUIET}
    attacks = [
        AutoProjectedGradientDescent(estimator, loss_type="cross_entropy", **apgd),
        AutoProjectedGradientDescent(estimator, loss_type="difference_logits_ratio", **apgd),
        DeepFool(estimator, max_iter=5, batch_size=8, **QUIET),
        SquareAttack(estimator, max_iter=20, eps=0.1, **QUIET),
    ]
    return AutoAttack(estimator, eps=0.1, eps_step=0.03, attacks=attacks)


TENSORS: dict[str, Make] = {
    "AutoAttack": _auto_attack,
    "APGD cross-entropy": lambda e: AutoProjectedGradientDescent(e, nb_random_init=1, loss_type="cross_entropy", **LINF),
    "APGD DLR": lambda e: AutoProjectedGradientDescent(e, nb_random_init=1, loss_type="difference_logits_ratio", **LINF),
    "PGD": lambda e: ProjectedGradientDescent(e, **LINF),
    "DeepFool": lambda e: DeepFool(e, max_iter=10, batch_size=8, **QUIET),
}


@pytest.mark.parametrize("attack", TENSORS)
def test_attacks_that_insist_on_pytorch_find_what_they_find_locally(
    server: Server, plain: PyTorchClassifier, digits: Digits, attack: str
) -> None:
    # The loss is taken here, and its cotangent travels: the same operations in the same order on both sides.
    remote = art_pytorch_classifier(server.estimator("cnn"))
    _assert_same(TENSORS[attack], remote, plain, digits.test(8).x, atol=EXACT)


def test_auto_attack_takes_its_default_list(server: Server) -> None:
    assert len(AutoAttack(art_pytorch_classifier(server.estimator("cnn"))).attacks) == 4


CLASSICAL: dict[str, Make] = {
    "PGD": lambda e: ProjectedGradientDescent(e, eps=0.3, eps_step=0.1, max_iter=5, **QUIET),
    "DeepFool": lambda e: DeepFool(e, max_iter=20, nb_grads=2, batch_size=4, **QUIET),
}


@pytest.mark.parametrize("attack", CLASSICAL)
@pytest.mark.parametrize("name", ["logistic", "svc"])
def test_attacks_on_scikit_learn_find_what_they_find_locally(
    server: Server, logistic: LogisticRegression, svc: SVC, digits: Digits, name: str, attack: str
) -> None:
    model = {"logistic": logistic, "svc": svc}[name]
    # Without preprocessing, which ART would apply twice in gradients.
    local = SklearnClassifier(model, clip_values=(0.0, 1.0), preprocessing=None)
    remote, (x, y) = art_estimator(server.estimator(name)), two_digits(digits, 8)
    given = {"y": np.eye(2)[y]} if attack == "PGD" else {}
    # ART adds loss gradients up in float32, and its attacks keep their rows in it; ours are float64 until then.
    _assert_same(CLASSICAL[attack], remote, local, x, **given, atol=LAST_DIGIT)
