"""scikit-learn models answer as scikit-learn does, with gradients of their answers."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from scipy.sparse import csr_matrix
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, LogisticRegressionCV, RidgeClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC, NuSVC
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from gradwire.backends import sklearn as backend
from gradwire.backends.capabilities import Operation, capabilities
from gradwire.backends.errors import InvalidLabel, InvalidLayer, InvalidShape, InvalidValue, ModelConfigError, Unsupported

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:lbfgs failed to converge")

Array = Any
X, Y = load_digits(return_X_y=True)
X, Y = X[:400] / 16, Y[:400].astype(np.int64)

FAMILY: list[Any] = [
    DecisionTreeClassifier(random_state=0),
    ExtraTreeClassifier(random_state=0),
    AdaBoostClassifier(n_estimators=5, random_state=0),
    BaggingClassifier(n_estimators=3, random_state=0),
    ExtraTreesClassifier(5, random_state=0),
    GradientBoostingClassifier(n_estimators=2, random_state=0),
    RandomForestClassifier(5, random_state=0),
    LogisticRegression(max_iter=50),
    GaussianNB(),
    SVC(),
    NuSVC(nu=0.1),
    LinearSVC(),
    KNeighborsClassifier(),
    RidgeClassifier(),
    MLPClassifier((8,), max_iter=5, random_state=0),
    HistGradientBoostingClassifier(max_iter=2),
    CalibratedClassifierCV(LinearSVC(), ensemble=False, cv=2),
    VotingClassifier([("a", GaussianNB()), ("b", RidgeClassifier())]),
    StackingClassifier([("a", GaussianNB()), ("b", RidgeClassifier())], GaussianNB(), cv=2),
    GridSearchCV(LogisticRegression(max_iter=10), {"C": [0.1, 1.0]}, cv=2),
    make_pipeline(StandardScaler(), LogisticRegression(max_iter=20)),
]
SVMS: list[Any] = [
    SVC(kernel="rbf"),
    SVC(kernel="linear"),
    SVC(kernel="poly", degree=3, gamma=0.3, coef0=0.5),
    SVC(kernel="poly", degree=1, gamma=0.3),
    SVC(kernel="poly", degree=0),
    SVC(kernel="sigmoid", gamma=0.02, coef0=-0.1),
    SVC(kernel="rbf", class_weight="balanced", C=0.5),
    NuSVC(kernel="rbf", nu=0.2),
    NuSVC(kernel="poly", nu=0.2),
    LinearSVC(),
    LinearSVC(multi_class="crammer_singer"),
    LinearSVC(fit_intercept=False),
]
LOGISTIC: list[Any] = [
    LogisticRegression(C=0.5),
    LogisticRegression(class_weight={0: 3.0, 1: 0.5}),
    LogisticRegression(class_weight="balanced"),
    LogisticRegression(fit_intercept=False),
    LogisticRegressionCV(Cs=2, cv=2, scoring="accuracy", use_legacy_attributes=False, l1_ratios=(0,)),
]


def _id(estimator: Any) -> str:
    return str(estimator)


def _config(estimator: Any, **keys: Any) -> backend.Config:
    keys = {"nb_classes": 10, "input_shape": (64,), **keys}
    return backend.Config(backend="sklearn", factory=lambda: estimator, **keys)


def _model(estimator: Any, **keys: Any) -> Any:
    return backend.load(_config(estimator, **keys))


def _rows(nb_classes: int, count: int = 150) -> tuple[Array, Array]:
    chosen = nb_classes > Y
    return X[chosen][:count], Y[chosen][:count]


def _fitted(estimator: Any, nb_classes: int) -> Any:
    return clone(estimator).fit(*_rows(nb_classes))


def _central_differences(function: Callable[[Array], Array], x: Array, step: float = 1e-5) -> Array:
    """``(n, ..., d)`` for a function of rows ``(n, d)`` with answers ``(n, ...)``."""
    columns = []
    for axis in range(x.shape[1]):
        h = np.zeros(x.shape[1])
        h[axis] = step
        columns.append((function(x + h) - function(x - h)) / (2 * step))
    return np.stack(columns, axis=-1)


def _assert_close(actual: Array, expected: Array) -> None:
    # Central differences with a step of 1e-5 leave 1e-10 of truncation and 1e-11 of rounding, times the size of the values.
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7 * max(1.0, np.abs(expected).max()))


# Predictions and fits, for the whole family.


@pytest.mark.parametrize("estimator", FAMILY, ids=_id)
def test_a_classifier_fits_and_predicts_as_it_does_in_scikit_learn(estimator: Any) -> None:
    model = _model(clone(estimator), input_shape=(8, 8))
    model.fit(X.reshape(-1, 8, 8), Y)
    expected = clone(estimator).fit(X, Y)

    outputs = model.predict(X.reshape(-1, 8, 8), training_mode=False)

    assert outputs.shape == (400, 10)
    assert outputs.dtype == np.float64
    if hasattr(expected, "predict_proba"):
        assert model.output_kind == "probabilities"
        np.testing.assert_allclose(outputs, expected.predict_proba(X), rtol=1e-9, atol=1e-12)
    else:
        assert model.output_kind == "labels"
        np.testing.assert_array_equal(outputs, np.eye(10)[expected.predict(X)])


@pytest.mark.parametrize("estimator", FAMILY, ids=_id)
def test_a_version_that_was_saved_comes_back(estimator: Any, tmp_path: Path) -> None:
    model = _model(clone(estimator).fit(X[:200], Y[:200]))
    model.save(tmp_path / "version")
    before = model.predict(X, training_mode=False)
    model.fit(X[200:], Y[200:])
    model.restore(tmp_path / "version")
    np.testing.assert_array_equal(model.predict(X, training_mode=False), before)


def test_a_fit_can_be_rolled_back_and_a_failed_one_changes_nothing() -> None:
    model = _model(LogisticRegression(max_iter=20).fit(X, Y))
    before = model.predict(X, training_mode=False)
    snapshot = model.snapshot()
    with pytest.raises(ValueError, match="classes"):
        model.fit(X[:10], np.zeros(10, np.int64))
    np.testing.assert_array_equal(model.predict(X, training_mode=False), before)
    model.fit(X[:50], Y[:50])
    assert not np.array_equal(model.predict(X, training_mode=False), before)
    model.rollback(snapshot)
    np.testing.assert_array_equal(model.predict(X, training_mode=False), before)


def test_a_fresh_model_has_the_hyperparameters_but_no_fit() -> None:
    model = _model(SVC(C=3.0).fit(X, Y))
    untrained = model.untrained_clone()
    with pytest.raises(Unsupported, match="SVC has not been fitted; call fit first"):
        untrained.predict(X, training_mode=False)
    assert not untrained.fitted
    assert capabilities(untrained) == capabilities(model)
    untrained.fit(X, Y)
    np.testing.assert_array_equal(untrained.predict(X, training_mode=False), model.predict(X, training_mode=False))


def test_one_hot_labels_fit_as_indices_do_and_soft_ones_are_refused() -> None:
    by_index, by_row = _model(GaussianNB()), _model(GaussianNB())
    by_index.fit(X, Y)
    by_row.fit(X, np.eye(10)[Y])
    np.testing.assert_array_equal(by_row.predict(X, training_mode=False), by_index.predict(X, training_mode=False))
    with pytest.raises(InvalidLabel, match="row 0 is a soft label"):
        by_row.fit(X, np.full((400, 10), 0.1))


def test_a_regressor_predicts_values_and_has_a_squared_error() -> None:
    model = _model(LinearRegression(), task="regression", nb_classes=1)
    model.fit(X, Y[:, None] / 10)
    predictions = model.predict(X, training_mode=False)
    assert (predictions.shape, predictions.dtype, model.output_kind) == ((400, 1), np.float64, "values")
    np.testing.assert_allclose(model.loss(X, Y / 10, training_mode=False), (predictions[:, 0] - Y / 10) ** 2)
    with pytest.raises(InvalidLabel, match="one number for each output"):
        model.loss(X, np.zeros((400, 2)), training_mode=False)

    two = _model(RandomForestRegressor(3).fit(X, np.stack([Y, -Y], 1)), task="regression", nb_classes=2)
    assert two.predict(X, training_mode=False).shape == (400, 2)


# Classes and columns.


@pytest.mark.parametrize("estimator", [GaussianNB(), LogisticRegression(), RidgeClassifier(), LinearSVC()], ids=_id)
def test_classes_that_a_fit_did_not_see_have_columns_of_zeros(estimator: Any) -> None:
    some = np.isin(Y, (2, 5, 7))
    model = _model(clone(estimator).fit(X[some], Y[some]))
    outputs = model.predict(X[some], training_mode=False)
    np.testing.assert_array_equal(np.flatnonzero(outputs.any(axis=0)), (2, 5, 7))
    np.testing.assert_array_equal(outputs.argmax(axis=1), model._state.estimator.predict(X[some]))


@pytest.mark.parametrize("estimator", [LogisticRegression(), SVC()], ids=_id)
def test_gradients_know_which_classes_a_fit_saw(estimator: Any) -> None:
    some = np.isin(Y, (2, 5, 7))
    model = _model(clone(estimator).fit(X[some], Y[some]), output="logits")
    x = X[some][:3]
    gradients = model.class_gradient(x, None, training_mode=False)
    np.testing.assert_array_equal(np.flatnonzero(gradients.any(axis=(0, 2))), (2, 5, 7))
    assert np.isneginf(model.predict(x, training_mode=False)[:, 0]).all()
    one = model.class_gradient(x, np.array([7, 0, 2]), training_mode=False)
    np.testing.assert_allclose(one[:, 0], gradients[np.arange(3), [7, 0, 2]], atol=1e-14)
    _assert_close(
        model.loss_gradient(x, np.array([2, 5, 7]), training_mode=False),
        _central_differences(lambda x: model.loss(x, np.array([2, 5, 7]), training_mode=False), x),
    )
    with pytest.raises(InvalidLabel, match=r"not fitted on class 0; its classes are \[2, 5, 7\]"):
        model.loss(x, np.array([2, 0, 7]), training_mode=False)
    with pytest.raises(InvalidLabel, match="not fitted on class 9"):
        model.loss_gradient(x, np.eye(10)[[2, 9, 7]] / 2, training_mode=False)


@pytest.mark.parametrize("estimator", [LogisticRegression(), SVC(), LinearSVC()], ids=_id)
def test_classes_with_names_take_columns_in_their_order(estimator: Any) -> None:
    x, y = _rows(3)
    named = _model(clone(estimator).fit(x, np.array(["ant", "bee", "cow"])[y]), nb_classes=3)
    numbered = _model(clone(estimator).fit(x, y), nb_classes=3)
    np.testing.assert_allclose(named.predict(x, training_mode=False), numbered.predict(x, training_mode=False))
    named.fit(x[y > 0], y[y > 0])
    assert (named.predict(x, training_mode=False)[:, 0] == 0).all()


def test_whole_floats_are_classes_like_integers_and_other_numbers_are_names() -> None:
    x, y = _rows(2)
    floats = _model(GaussianNB().fit(x, y + 1.0), nb_classes=3)
    assert (floats.predict(x, training_mode=False)[:, 0] == 0).all()
    signs = _model(LinearSVC().fit(x, 2 * y - 1), nb_classes=2)
    np.testing.assert_array_equal(signs.predict(x, training_mode=False).argmax(axis=1), y)


# Capabilities.


BASE = {Operation.PREDICT, Operation.FIT, Operation.VERSIONS, Operation.CLONE}
GRADIENTS = BASE | {Operation.LOSS, Operation.LOSS_GRADIENT, Operation.CLASS_GRADIENT}


class _Contrary(LogisticRegression):
    def predict_proba(self, X: Array) -> Array:  # noqa: N803
        return super().predict_proba(X)[:, ::-1]


@pytest.mark.parametrize(
    ("estimator", "keys", "expected"),
    [
        (DecisionTreeClassifier(), {}, BASE),
        (make_pipeline(StandardScaler(), SVC()), {}, GRADIENTS),
        (make_pipeline(FunctionTransformer(), SVC()), {}, BASE),
        (SVC(kernel=lambda a, b: a @ b.T), {}, BASE),
        (SVC(kernel="precomputed"), {}, BASE),
        (_Contrary(), {}, BASE),
        (LogisticRegression(), {}, GRADIENTS | {Operation.VJP}),
        (LogisticRegression(), {"output": "logits"}, GRADIENTS | {Operation.VJP}),
        (SVC(), {}, GRADIENTS),
        (SVC(probability=True), {}, GRADIENTS),
        (SVC(), {"output": "logits"}, GRADIENTS | {Operation.VJP}),
        (NuSVC(), {}, GRADIENTS),
        (LinearSVC(), {}, GRADIENTS),
        (LinearSVC(), {"output": "logits"}, GRADIENTS | {Operation.VJP}),
        (LinearRegression(), {"task": "regression"}, GRADIENTS | {Operation.VJP}),
        (RandomForestRegressor(), {"task": "regression"}, BASE | {Operation.LOSS}),
        (MLPClassifier(), {}, GRADIENTS | {Operation.VJP, Operation.GET_ACTIVATIONS}),
    ],
)
def test_a_model_has_just_the_operations_that_it_defines(estimator: Any, keys: dict[str, Any], expected: set[Operation]) -> None:
    assert capabilities(_model(estimator, **keys)) == expected


# Gradients of support vector machines.


@pytest.mark.parametrize("nb_classes", [2, 3, 5])
@pytest.mark.parametrize("estimator", SVMS, ids=_id)
def test_class_gradients_of_a_support_vector_machine_are_those_of_its_scores(estimator: Any, nb_classes: int) -> None:
    fitted = _fitted(estimator, nb_classes)
    model, scores = _model(fitted, nb_classes=nb_classes), _model(fitted, nb_classes=nb_classes, output="logits")
    x = _rows(nb_classes)[0][:4] + 0.01
    numeric = _central_differences(lambda x: scores.predict(x, training_mode=False), x)
    for one in (model, scores):
        gradients = one.class_gradient(x.reshape(4, 1, 8, 8), None, training_mode=False)
        assert gradients.shape == (4, nb_classes, 1, 8, 8)
        _assert_close(gradients.reshape(4, nb_classes, 64), numeric)
        label = np.array([0, 1, nb_classes - 1, 0])
        _assert_close(one.class_gradient(x, label, training_mode=False)[:, 0], numeric[np.arange(4), label])


@pytest.mark.parametrize("nb_classes", [2, 3, 5])
@pytest.mark.parametrize("estimator", SVMS, ids=_id)
def test_scores_are_the_decisions_of_scikit_learn_summed_for_each_class(estimator: Any, nb_classes: int) -> None:
    fitted = _fitted(estimator, nb_classes)
    x = _rows(nb_classes)[0]
    if isinstance(fitted, LinearSVC) or nb_classes == 2:
        decision = fitted.decision_function(x)
        expected = np.stack([-decision, decision], 1) if nb_classes == 2 else decision
    else:
        pairs = clone(fitted).set_params(decision_function_shape="ovo").fit(*_rows(nb_classes)).decision_function(x)
        expected = np.zeros((len(x), nb_classes))
        for pair, (i, j) in enumerate(zip(*np.triu_indices(nb_classes, 1), strict=True)):
            expected[:, i] += pairs[:, pair]
            expected[:, j] -= pairs[:, pair]
    scores = _model(fitted, nb_classes=nb_classes, output="logits").predict(x, training_mode=False)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("nb_classes", [2, 3])
@pytest.mark.parametrize("estimator", SVMS, ids=_id)
def test_the_loss_of_a_support_vector_machine_is_the_negated_score_of_the_label(estimator: Any, nb_classes: int) -> None:
    fitted = _fitted(estimator, nb_classes)
    model, scores = _model(fitted, nb_classes=nb_classes), _model(fitted, nb_classes=nb_classes, output="logits")
    x, y = (a[:4] for a in _rows(nb_classes))
    soft = np.random.default_rng(0).dirichlet(np.ones(nb_classes), 4)
    predictions = scores.predict(x, training_mode=False)
    np.testing.assert_allclose(model.loss(x, y, training_mode=False), -predictions[np.arange(4), y], rtol=1e-12)
    for labels in (y, soft):
        loss = model.loss(x, labels, training_mode=False)
        np.testing.assert_allclose(scores.loss_from_predictions(predictions, labels), loss, rtol=1e-12)
        numeric = _central_differences(lambda x, labels=labels: model.loss(x, labels, training_mode=False), x)
        _assert_close(model.loss_gradient(x, labels, training_mode=False), numeric)


@pytest.mark.parametrize("kernel", ["rbf", "linear", "poly"])
def test_a_machine_that_was_fitted_on_sparse_rows_has_gradients(kernel: str) -> None:
    x, y = _rows(3)
    fitted = SVC(kernel=kernel).fit(csr_matrix(x), y)
    dense, sparse = (_model(one, nb_classes=3) for one in (SVC(kernel=kernel).fit(x, y), fitted))
    np.testing.assert_allclose(
        sparse.class_gradient(x[:3], None, training_mode=False),
        dense.class_gradient(x[:3], None, training_mode=False),
        rtol=1e-6,
        atol=1e-8,
    )
    np.testing.assert_array_equal(sparse.predict(x, training_mode=False), dense.predict(x, training_mode=False))


def test_a_kernel_far_from_the_origin_keeps_its_digits() -> None:
    x, y = _rows(3)
    near, far = SVC(gamma=0.1).fit(x, y), SVC(gamma=0.1).fit(x + 1e5, y)
    expected = _model(near, nb_classes=3).class_gradient(x[:5], None, training_mode=False)
    actual = _model(far, nb_classes=3).class_gradient(x[:5] + 1e5, None, training_mode=False)
    # The inputs themselves lost 1e-11 when 1e5 was added.
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_probabilities_of_a_support_vector_machine_are_libsvms_and_its_gradients_those_of_scores() -> None:
    x, y = _rows(3)
    fitted = SVC(probability=True, random_state=0).fit(x, y)
    model = _model(fitted, nb_classes=3)
    np.testing.assert_array_equal(model.predict(x, training_mode=False), fitted.predict_proba(x))
    assert model.output_kind == "probabilities"
    assert "of the scores" in model.notes[0]
    plain = _model(SVC(random_state=0).fit(x, y), nb_classes=3)
    np.testing.assert_allclose(
        model.class_gradient(x, None, training_mode=False), plain.class_gradient(x, None, training_mode=False)
    )


# Gradients of logistic regression.


@pytest.mark.parametrize("nb_classes", [2, 3])
@pytest.mark.parametrize("output", [None, "logits"])
@pytest.mark.parametrize("estimator", LOGISTIC, ids=_id)
def test_gradients_of_logistic_regression_are_those_of_its_outputs(estimator: Any, output: str | None, nb_classes: int) -> None:
    model = _model(_fitted(estimator, nb_classes), nb_classes=nb_classes, output=output)
    x = _rows(nb_classes)[0][:4]
    expected = model._state.estimator.predict_log_proba(x) if output else model._state.estimator.predict_proba(x)
    np.testing.assert_allclose(model.predict(x, training_mode=False), expected, rtol=1e-9)
    numeric = _central_differences(lambda x: model.predict(x, training_mode=False), x)
    _assert_close(model.class_gradient(x, None, training_mode=False), numeric)
    _assert_close(model.class_gradient(x, np.array([0, 1, 1, 0]), training_mode=False)[:, 0], numeric[range(4), [0, 1, 1, 0]])
    cotangent = np.random.default_rng(0).normal(size=(4, nb_classes))
    _assert_close(model.vjp(x, cotangent, None, training_mode=False), np.einsum("nc,ncd->nd", cotangent, numeric))
    with pytest.raises(InvalidLayer, match="no layers"):
        model.vjp(x, cotangent, 0, training_mode=False)


@pytest.mark.parametrize("nb_classes", [2, 3])
@pytest.mark.parametrize("output", [None, "logits"])
@pytest.mark.parametrize("estimator", LOGISTIC, ids=_id)
def test_the_loss_of_logistic_regression_is_cross_entropy(estimator: Any, output: str | None, nb_classes: int) -> None:
    model = _model(_fitted(estimator, nb_classes), nb_classes=nb_classes, output=output)
    x, y = (a[:6] for a in _rows(nb_classes))
    weights = dict.fromkeys(range(nb_classes), 1.0)
    if isinstance(estimator.class_weight, dict):
        weights |= estimator.class_weight
    p = model._state.estimator.predict_proba(x)
    expected = [weights[c] * log_loss([c], p[i : i + 1], labels=range(nb_classes)) for i, c in enumerate(y.tolist())]
    np.testing.assert_allclose(model.loss(x, y, training_mode=False), expected, rtol=1e-6)
    for labels in (y, np.random.default_rng(0).dirichlet(np.ones(nb_classes), 6)):
        loss = model.loss(x, labels, training_mode=False)
        numeric = _central_differences(lambda x, labels=labels: model.loss(x, labels, training_mode=False), x)
        _assert_close(model.loss_gradient(x, labels, training_mode=False), numeric)
        predictions = model.predict(x, training_mode=False)
        np.testing.assert_allclose(model.loss_from_predictions(predictions, labels), loss, rtol=1e-9)
    assert model.loss_reduction == "sum"
    assert model.loss_divisor(y) == len(y)


def test_the_loss_stays_finite_where_a_probability_underflows() -> None:
    model = _model(_fitted(LogisticRegression(), 3), nb_classes=3)
    x = np.full((1, 64), 1e4)
    losses = np.array([model.loss(x, np.array([c]), training_mode=False)[0] for c in range(3)])
    assert np.isfinite(losses).all()
    assert losses.max() > 745
    assert np.isfinite(model.loss_from_predictions(model.predict(x, training_mode=False), np.full((1, 3), 1 / 3))).all()


# ART, where it is right and where it is not.


@pytest.fixture(scope="module")
def art() -> Callable[[Any], Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.estimators.classification import SklearnClassifier
    return SklearnClassifier


@pytest.mark.parametrize("nb_classes", [2, 3])
@pytest.mark.parametrize("estimator", [SVC(), SVC(kernel="linear"), LinearSVC()], ids=_id)
def test_class_gradients_of_support_vector_machines_are_arts(art: Any, estimator: Any, nb_classes: int) -> None:
    fitted = _fitted(estimator, nb_classes)
    x = X[:3]
    ours = _model(fitted, nb_classes=nb_classes).class_gradient(x, None, training_mode=False)
    np.testing.assert_allclose(ours, art(fitted).class_gradient(x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("estimator", [SVC(kernel="rbf"), SVC(kernel="linear"), LinearSVC()], ids=_id)
def test_loss_gradients_of_two_class_machines_are_arts(art: Any, estimator: Any) -> None:
    fitted = _fitted(estimator, 2)
    x, y = (a[:4] for a in _rows(2))
    ours = _model(fitted, nb_classes=2).loss_gradient(x, y, training_mode=False)
    # ART adds up loss gradients in float32.
    np.testing.assert_allclose(ours, art(fitted).loss_gradient(x, np.eye(2)[y]), rtol=1e-5, atol=1e-6)


def test_class_gradients_of_two_class_logistic_regression_are_arts(art: Any) -> None:
    fitted = _fitted(LogisticRegression(), 2)
    ours = _model(fitted, nb_classes=2).class_gradient(X[:4], None, training_mode=False)
    np.testing.assert_allclose(ours, art(fitted).class_gradient(X[:4]), rtol=1e-9, atol=1e-12)


def test_predictions_of_the_family_are_arts(art: Any) -> None:
    for estimator in (
        RandomForestClassifier(3, random_state=0),
        GaussianNB(),
        LogisticRegression(),
        LinearSVC(),
        SVC(probability=False),
    ):
        fitted = _fitted(estimator, 3)
        ours = _model(fitted, nb_classes=3).predict(X[:20], training_mode=False)
        np.testing.assert_allclose(ours, art(fitted).predict(X[:20]), rtol=1e-9, atol=1e-12)


def _errors(ours: Array, arts: Array, numeric: Array) -> tuple[float, float]:
    """Relative errors of our gradient and of ART's against central differences."""
    size = np.abs(numeric).max()
    return float(np.abs(ours - numeric).max() / size), float(np.abs(arts - numeric).max() / size)


def test_art_leaves_gamma_out_of_the_polynomial_kernel(art: Any) -> None:
    fitted = _fitted(SVC(kernel="poly", gamma=0.3, coef0=0.5), 3)
    scores = _model(fitted, nb_classes=3, output="logits")
    ours, arts = scores.class_gradient(X[:3], None, training_mode=False), art(fitted).class_gradient(X[:3])
    ours_off, arts_off = _errors(ours, arts, _central_differences(lambda x: scores.predict(x, training_mode=False), X[:3]))
    assert ours_off < 1e-7
    assert arts_off == pytest.approx(1 / 0.3 - 1, rel=1e-5)
    np.testing.assert_allclose(arts, ours / 0.3, rtol=1e-9, atol=1e-10)


def test_art_has_no_sigmoid_kernel(art: Any) -> None:
    with pytest.raises(NotImplementedError):
        art(_fitted(SVC(kernel="sigmoid"), 3))


def test_art_leaves_the_probability_out_of_class_gradients_of_logistic_regression(art: Any) -> None:
    fitted = _fitted(LogisticRegression(), 3)
    model, logits = _model(fitted, nb_classes=3), _model(fitted, nb_classes=3, output="logits")
    ours, arts = model.class_gradient(X[:4], None, training_mode=False), art(fitted).class_gradient(X[:4])
    ours_off, arts_off = _errors(ours, arts, _central_differences(lambda x: model.predict(x, training_mode=False), X[:4]))
    assert ours_off < 1e-7
    assert arts_off > 1
    np.testing.assert_allclose(arts * model.predict(X[:4], training_mode=False)[:, :, None], ours, rtol=1e-9, atol=1e-12)
    # What ART gives is the gradient of the log probabilities.
    np.testing.assert_allclose(arts, logits.class_gradient(X[:4], None, training_mode=False), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("nb_classes", "factor"), [(2, 1), (3, 3), (5, 5)])
def test_art_divides_the_loss_gradient_of_multinomial_regression_by_the_number_of_classes(
    art: Any, nb_classes: int, factor: int
) -> None:
    fitted = _fitted(LogisticRegression(), nb_classes)
    model = _model(fitted, nb_classes=nb_classes)
    x, y = (a[:4] for a in _rows(nb_classes))
    ours, arts = model.loss_gradient(x, y, training_mode=False), art(fitted).loss_gradient(x, np.eye(nb_classes)[y])
    numeric = _central_differences(lambda x: model.loss(x, y, training_mode=False), x)
    ours_off, arts_off = _errors(ours, arts, numeric)
    assert ours_off < 1e-7
    assert arts_off == pytest.approx(1 - 1 / factor, rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(arts * factor, ours, rtol=1e-9, atol=1e-12)


def test_art_weighs_errors_by_column_where_the_loss_weighs_rows_by_label(art: Any) -> None:
    fitted = _fitted(LogisticRegression(class_weight={0: 3.0, 1: 0.5, 2: 1.0}), 3)
    model = _model(fitted, nb_classes=3)
    x, y = (a[:6] for a in _rows(3))
    ours, arts = model.loss_gradient(x, y, training_mode=False), 3 * art(fitted).loss_gradient(x, np.eye(3)[y])
    ours_off, arts_off = _errors(ours, arts, _central_differences(lambda x: model.loss(x, y, training_mode=False), x))
    assert ours_off < 1e-7
    assert arts_off > 0.1


def test_art_takes_a_wrong_row_of_dual_coef_in_the_loss_gradient(art: Any) -> None:
    fitted = _fitted(SVC(), 3)
    model = _model(fitted, nb_classes=3)
    x, y = (a[:6] for a in _rows(3))
    ours, arts = model.loss_gradient(x, y, training_mode=False), art(fitted).loss_gradient(x, np.eye(3)[y])
    ours_off, arts_off = _errors(ours, arts, _central_differences(lambda x: model.loss(x, y, training_mode=False), x))
    assert ours_off < 1e-7
    assert arts_off > 0.1
    # ART's own class gradient contradicts it: the loss is the negated score of the label.
    np.testing.assert_allclose(ours, -art(fitted).class_gradient(x, label=y)[:, 0], rtol=1e-9, atol=1e-10)


def test_art_cannot_predict_with_a_default_svc_and_we_give_its_labels(art: Any) -> None:
    fitted = _fitted(SVC(), 3)
    if fitted.probability is False:
        pytest.skip("before scikit-learn 1.9 the default of probability is False, which ART understands")
    with pytest.raises(AttributeError, match="predict_proba"):
        art(fitted).predict(X[:3])
    np.testing.assert_array_equal(
        _model(fitted, nb_classes=3).predict(X[:3], training_mode=False), np.eye(3)[fitted.predict(X[:3])]
    )


# Loading.


def test_fitted_weights_come_from_skops(tmp_path: Path) -> None:
    fitted = SVC().fit(X, Y)
    skops.io.dump(fitted, tmp_path / "svc.skops")
    model = _model(SVC(), weights=tmp_path / "svc.skops")
    np.testing.assert_array_equal(model.predict(X, training_mode=False).argmax(axis=1), fitted.predict(X))
    with pytest.raises(ModelConfigError, match="weights: hold a SVC; the factory returns a GaussianNB"):
        _model(GaussianNB(), weights=tmp_path / "svc.skops")


def test_a_pickle_is_read_only_if_it_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "svc.pkl"
    path.write_bytes(pickle.dumps(SVC().fit(X, Y)))
    with pytest.raises(ModelConfigError, match=r"runs code when it is read; .* trust_pickle: true"):
        _model(SVC(), weights=path)
    assert _model(SVC(), weights=path, trust_pickle=True).fitted


class Owners(ClassifierMixin, BaseEstimator):
    def fit(self, x: Array, y: Array) -> Owners:
        self.classes_ = np.unique(y)
        return self

    def predict(self, x: Array) -> Array:
        return np.full(len(x), self.classes_[0])


def test_types_that_scikit_learn_does_not_define_are_named_and_refused(tmp_path: Path) -> None:
    name = f"{Owners.__module__}.Owners"
    skops.io.dump(Owners().fit(X, Y), tmp_path / "owners.skops")
    with pytest.raises(ModelConfigError, match=name.replace(".", r"\.")):
        _model(Owners(), weights=tmp_path / "owners.skops")
    with pytest.raises(Unsupported, match=name.replace(".", r"\.")):
        _model(Owners().fit(X, Y)).save(tmp_path / "version")
    assert not (tmp_path / "version").exists()
    skops.io.dump(make_pipeline(FunctionTransformer(warnings.warn), GaussianNB()), tmp_path / "function.skops")
    with pytest.raises(ModelConfigError, match=r"warnings\.warn"):
        _model(make_pipeline(FunctionTransformer(), GaussianNB()), weights=tmp_path / "function.skops")


def test_trees_in_configured_weights_need_the_operators_word(tmp_path: Path) -> None:
    path = tmp_path / "forest.skops"
    skops.io.dump(RandomForestClassifier(3).fit(X, Y), path)
    with pytest.raises(ModelConfigError, match=r"sklearn\.tree\._tree\.Tree; list them in trust_types"):
        _model(RandomForestClassifier(3), weights=path)
    assert _model(RandomForestClassifier(3), weights=path, trust_types=("sklearn.tree._tree.Tree",)).fitted


def test_a_version_of_another_kind_is_refused(tmp_path: Path) -> None:
    skops.io.dump(SVC(kernel="precomputed").fit(X @ X.T, Y), tmp_path / "version")
    with pytest.raises(ModelConfigError, match="without this model's outputs or gradients"):
        _model(SVC().fit(X, Y)).restore(tmp_path / "version")


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_a_broken_version_is_refused_and_changes_nothing(tmp_path: Path, content: bytes) -> None:
    model = _model(GaussianNB().fit(X, Y))
    state = model.snapshot()
    (tmp_path / "version").write_bytes(content)
    with pytest.raises(ModelConfigError, match="cannot be read"):
        model.restore(tmp_path / "version")
    skops.io.dump(GaussianNB().fit(X[:, :5], Y), tmp_path / "version")
    with pytest.raises(ModelConfigError, match=r"input_shape: \[64\]; the estimator was fitted on 5 features"):
        model.restore(tmp_path / "version")
    assert model.snapshot() is state


@pytest.mark.parametrize(
    ("estimator", "keys", "problem"),
    [
        (KMeans(), {}, "factory: returned KMeans"),
        (object(), {}, "factory: returned object"),
        (LinearRegression(), {}, "factory: returned LinearRegression; task classification"),
        (GaussianNB(), {"task": "regression"}, "factory: returned GaussianNB; task regression"),
        (GaussianNB(), {"device": "cuda"}, "device: 'cuda'"),
        (GaussianNB(), {"weights": Path("model.h5")}, "weights: model.h5 has no known format"),
        (GaussianNB(), {"weights": Path("missing.skops")}, "weights: missing.skops cannot be read"),
        (RidgeClassifier(), {"output": "probabilities"}, "output: RidgeClassifier does not give probabilities"),
        (KNeighborsClassifier(), {"output": "logits"}, "output: KNeighborsClassifier does not give logits"),
        (GaussianNB().fit(X, Y), {"nb_classes": 9}, "nb_classes: 9; the estimator was fitted on the classes"),
        (GaussianNB().fit(X, Y), {"input_shape": (8, 7)}, r"input_shape: \[8, 7\]; the estimator was fitted on 64 features"),
        (LinearRegression(), {"task": "regression", "output": "logits"}, "output: 'logits'; a regressor gives values"),
    ],
)
def test_a_wrong_configuration_says_which_key_is_wrong(estimator: Any, keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ModelConfigError, match=problem):
        _model(estimator, **keys)


def test_inputs_that_no_model_takes_are_named() -> None:
    model = _model(LogisticRegression(max_iter=20).fit(X, Y), input_shape=(-1,))
    with pytest.raises(InvalidShape, match="7 features; the model was fitted on 64"):
        model.predict(X[:, :7], training_mode=False)
    with pytest.raises(InvalidValue, match="NaN"):
        model.loss_gradient(np.full((1, 64), np.nan), np.array([0]), training_mode=False)


def test_log_probabilities_of_any_classifier_are_its_logits() -> None:
    fitted = RandomForestClassifier(5, random_state=0).fit(X, Y)
    model = _model(fitted, output="logits")
    assert model.output_kind == "logits"
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(model.predict(X, training_mode=False), fitted.predict_log_proba(X))
