"""Regressions are what ART's own regressors are, where it has them; and what ART gets wrong is told here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conformance.cases import CASES, with_operation

from gradwire.client import RemoteEstimator, Server
from gradwire.client.art import art_estimator

N = 8


def labels_of(name: str, seed: int = 0) -> tuple[Any, Any]:
    """Rows and their targets, one a row."""
    case = CASES[name]
    return case.rows(N, seed).astype(np.float32), case.labels(N, seed)[:, 0].astype(np.float32)


@pytest.fixture
def torch_regressor() -> Any:
    """ART's, of the module of ``torch-regression``, in the only precision that its attacks and answers have.

    It takes targets ``(n,)``: of a column ``(n, 1)`` it would compare every target with every row's output.
    """
    import torch
    from art.estimators.regression import PyTorchRegressor
    from conformance.nets.torch import regression

    module = regression().float()
    return PyTorchRegressor(
        module, torch.nn.MSELoss(), (10,), optimizer=torch.optim.Adam(module.parameters(), lr=0.01), preprocessing=(0.4, 0.2),
        device_type="cpu",
    )  # fmt: skip


@with_operation("predict", where=lambda case: case.task == "regression")
def test_art_sees_a_regressor_and_no_classes(remote: RemoteEstimator, name: str) -> None:
    from art.estimators.classification import ClassifierMixin
    from art.estimators.classification.classifier import ClassGradientsMixin
    from art.estimators.estimator import LossGradientsMixin
    from art.estimators.regression import RegressorMixin

    estimator = art_estimator(remote)
    assert isinstance(estimator, RegressorMixin)
    assert not isinstance(estimator, (ClassifierMixin, ClassGradientsMixin))
    assert isinstance(estimator, LossGradientsMixin) == ("loss_gradient" in CASES[name].operations)
    x = CASES[name].rows(N, 0)
    np.testing.assert_array_equal(estimator.predict(x), remote.predict(x))


def test_a_torch_regression_is_arts(server: Server, torch_regressor: Any) -> None:
    remote = art_estimator(server.estimator("torch-regression"))
    x, y = labels_of("torch-regression")
    # ART's computes in float32.
    close: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(remote.predict(x), torch_regressor.predict(x), **close)
    np.testing.assert_allclose(remote.loss_gradient(x, y), torch_regressor.loss_gradient(x, y), **close)
    np.testing.assert_allclose(
        remote.compute_loss(x, y), np.reshape(torch_regressor.compute_loss(x, y, reduction="none"), -1), **close
    )
    for layer in (0, 1):
        np.testing.assert_allclose(
            remote.get_activations(x, layer), torch_regressor.get_activations(x, layer, batch_size=N), **close
        )


def test_a_fit_of_a_torch_regression_is_arts(server: Server, torch_regressor: Any) -> None:
    remote = server.estimator("torch-regression")
    x, y = labels_of("torch-regression", 1)
    try:
        # One batch holds all rows, so that their order does not count.
        art_estimator(remote).fit(x, y, batch_size=N, nb_epochs=5)
        torch_regressor.fit(x, y, batch_size=N, nb_epochs=5)
        np.testing.assert_allclose(remote.predict(x), torch_regressor.predict(x), rtol=1e-5, atol=1e-6)
    finally:
        remote.reset()


def test_an_attack_on_a_torch_regression_is_arts(server: Server, torch_regressor: Any) -> None:
    from art.attacks.evasion import FastGradientMethod

    remote = server.estimator("torch-regression")
    x, y = labels_of("torch-regression", 2)
    ours, theirs = (
        FastGradientMethod(estimator, norm=2, eps=0.05).generate(x, y) for estimator in (art_estimator(remote), torch_regressor)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (remote.compute_loss(ours, y) > remote.compute_loss(x, y)).all()


@pytest.mark.parametrize("name", ["sklearn-regression", "sklearn-regression-forest"])
def test_a_scikit_learn_regression_is_arts(server: Server, name: str) -> None:
    from art.estimators.regression.scikitlearn import ScikitlearnRegressor
    from conformance.nets import sklearn as nets

    factory = {"sklearn-regression": nets.diabetes_ridge, "sklearn-regression-forest": nets.diabetes_forest}
    preprocessing = CASES[name].config.get("preprocessing", {"mean": 0.0, "std": 1.0})
    local = ScikitlearnRegressor(factory[name](), preprocessing=(preprocessing["mean"], preprocessing["std"]))
    remote = art_estimator(server.estimator(name))
    x, y = labels_of(name)
    # ART standardises in float32. One value a row is a column here, as of torch's regressors, and in ART a vector.
    close: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(remote.predict(x)[:, 0], local.predict(x), **close)
    np.testing.assert_allclose(remote.compute_loss(x, y), local.compute_loss(x, y), **close)
    try:
        remote.fit(x, y)
        local.fit(x, y)
        np.testing.assert_allclose(remote.predict(x)[:, 0], local.predict(x), **close)
    finally:
        remote.model.reset()


@pytest.mark.parametrize("name", ["sklearn-regression", "torch-regression"])
def test_a_fit_of_all_of_diabetes_explains_as_much_as_the_frameworks_own(server: Server, name: str, torch_regressor: Any) -> None:
    from conformance.cases import diabetes
    from conformance.nets.sklearn import diabetes_ridge
    from sklearn.base import clone
    from sklearn.metrics import r2_score

    X, Y = diabetes.x(), diabetes.y()  # noqa: N806
    remote = server.estimator(name)
    trained, held_out = slice(0, 342), slice(342, None)
    try:
        remote.fit(X[trained], Y[trained], nb_epochs=60, batch_size=342, seed=0)
        found = r2_score(Y[held_out], remote.predict(X[held_out]))
    finally:
        remote.reset()
    if name == "torch-regression":
        x, y = X.astype(np.float32), Y[:, 0].astype(np.float32)
        torch_regressor.fit(x[trained], y[trained], nb_epochs=60, batch_size=342)
        expected = r2_score(y[held_out], torch_regressor.predict(x[held_out]))
    else:
        plain = clone(diabetes_ridge()).fit((X[trained] - 0.2) / 0.3, Y[trained, 0])
        expected = plain.score((X[held_out] - 0.2) / 0.3, Y[held_out])
    assert found == pytest.approx(expected, abs=1e-4)
    assert found > 0.3
