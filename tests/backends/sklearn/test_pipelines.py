"""Pipelines and searches: gradients pass back through the steps before the last one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance.case import Halve
from differences import gradient
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectKBest, SelectPercentile, VarianceThreshold
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from gradwire.backends import sklearn as backend
from gradwire.backends.capabilities import Operation, capabilities
from gradwire.backends.errors import InvalidValue, ModelConfigError, Unsupported
from gradwire.backends.load import load

pytestmark = pytest.mark.filterwarnings("ignore")

Array = Any
X, Y = load_digits(return_X_y=True)
X, Y = X[:400] / 16, Y[:400].astype(np.int64)
CHOSEN = Y < 3
X, Y = X[CHOSEN], Y[CHOSEN]
# Six pixels of different sizes, some far from 0; none of them is constant.
X = X[:, X.var(axis=0).argsort()[-6:]] * [1, 2, 0.5, 3, 1, 1] + [0, 1, -2, 0, 5, 0]

# On no bound of a scaler that clips, where there are two slopes; some are beyond it.
ROWS = 0.021 + X[:6] * 0.953

TRANSFORMERS: list[Any] = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    StandardScaler(with_mean=False, with_std=False),
    MinMaxScaler(),
    MinMaxScaler((-1, 3), clip=True),
    MaxAbsScaler(),
    RobustScaler(),
    RobustScaler(with_centering=False, unit_variance=True),
    RobustScaler(with_scaling=False),
    Normalizer(),
    Normalizer("l1"),
    Normalizer("max"),
    PCA(),
    PCA(3),
    PCA(4, whiten=True),
    IncrementalPCA(3, whiten=True),
    TruncatedSVD(3),
    PolynomialFeatures(),
    PolynomialFeatures(3, include_bias=False),
    PolynomialFeatures((2, 3), interaction_only=True),
    SelectKBest(k=3),
    SelectPercentile(percentile=50),
    VarianceThreshold(0.3),
]
LAST: list[Any] = [
    LogisticRegression(),
    GaussianNB(var_smoothing=0.1),
    MLPClassifier((5,), activation="tanh", max_iter=20, random_state=0),
    SVC(),
    LinearSVC(),
]


def _id(estimator: Any) -> str:
    # Without addresses, which differ between the processes that share the tests.
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(estimator).split()))


def _config(estimator: Any, **keys: Any) -> backend.Config:
    keys = {"nb_classes": 3, "input_shape": (6,), **keys}
    return backend.Config(backend="sklearn", factory=lambda: estimator, **keys)


def _model(estimator: Any, **keys: Any) -> Any:
    return backend.load(_config(estimator, **keys))


def _assert_close(actual: Array, expected: Array) -> None:
    # Central differences with a step of 1e-5 leave 1e-10 of truncation and 1e-11 of rounding, times the size of the values.
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7 * max(1.0, np.abs(expected).max()))


def _assert_gradients(fitted: Any, x: Array, y: Array) -> None:
    smooth = _model(fitted, output="logits")
    # Not the top score, which a support vector machine's votes need not go to.
    np.testing.assert_array_equal(_model(fitted).predict(x, training_mode=False).argmax(axis=1), fitted.predict(x))
    numeric = gradient(lambda x: smooth.predict(x, training_mode=False), x)
    _assert_close(smooth.class_gradient(x, None, training_mode=False), numeric)
    _assert_close(smooth.class_gradient(x, y, training_mode=False)[:, 0], numeric[np.arange(len(x)), y])
    cotangent = np.random.default_rng(0).normal(size=(len(x), 3))
    _assert_close(smooth.vjp(x, cotangent, None, training_mode=False), np.einsum("nc,ncd->nd", cotangent, numeric))
    for model in (smooth, _model(fitted)):
        for labels in (y, np.random.default_rng(0).dirichlet(np.ones(3), len(x))):
            losses = gradient(lambda x, model=model, labels=labels: model.loss(x, labels, training_mode=False), x)
            _assert_close(model.loss_gradient(x, labels, training_mode=False), losses)


@pytest.mark.parametrize("transformer", TRANSFORMERS, ids=_id)
@pytest.mark.parametrize("last", LAST, ids=_id)
def test_gradients_go_through_a_transformer(transformer: Any, last: Any) -> None:
    _assert_gradients(make_pipeline(clone(transformer), clone(last)).fit(X, Y), ROWS, Y[:6])


@pytest.mark.parametrize("transformer", [*TRANSFORMERS, PolynomialFeatures(0)], ids=_id)
def test_a_transformer_does_what_scikit_learns_does(transformer: Any) -> None:
    pipeline = make_pipeline(clone(transformer), LinearRegression()).fit(X, np.random.default_rng(0).normal(size=len(X)))
    rows = 1.5 * X - 0.2  # beyond the training data too
    ours = _model(pipeline, task="regression", nb_classes=1).predict(rows, training_mode=False)
    np.testing.assert_allclose(ours[:, 0], pipeline.predict(rows), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "pipeline",
    [
        make_pipeline(StandardScaler(), PCA(4, whiten=True), PolynomialFeatures(2), MinMaxScaler(), LogisticRegression()),
        make_pipeline(None, "passthrough", RobustScaler(), SVC()),
        make_pipeline(make_pipeline(StandardScaler(), PCA(3)), "passthrough", make_pipeline(MaxAbsScaler(), GaussianNB())),
        Pipeline([("only", LogisticRegression())]),
        make_pipeline(StandardScaler(), GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2)),
        GridSearchCV(make_pipeline(StandardScaler(), PCA(), SVC()), {"pca__n_components": [2, 4], "svc__C": [1, 9]}, cv=2),
        RandomizedSearchCV(MLPClassifier((4,), max_iter=20, random_state=0), {"alpha": [0.1, 1.0]}, n_iter=2, cv=2, random_state=0),
    ],
    ids=_id,
)
def test_gradients_go_through_all_steps_and_searches(pipeline: Any) -> None:
    _assert_gradients(clone(pipeline).fit(X, Y), ROWS, Y[:6])


def test_a_model_in_a_pipeline_keeps_its_digits_far_from_the_origin() -> None:
    near = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    for scaler in (StandardScaler(), MinMaxScaler(), RobustScaler()):
        near = make_pipeline(clone(scaler), LogisticRegression()).fit(X, Y)
        far = make_pipeline(clone(scaler), LogisticRegression()).fit(X + 1e6, Y)
        expected = _model(near).class_gradient(X[:5], None, training_mode=False)
        # The inputs themselves lost 1e-10 when 1e6 was added, and so does what is fitted to them.
        actual = _model(far).class_gradient(X[:5] + 1e6, None, training_mode=False)
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def _clipping_scalers() -> list[Any]:
    # MaxAbsScaler can clip since scikit-learn 1.9.
    return [MinMaxScaler(clip=True)] + ([MaxAbsScaler(clip=True)] if "clip" in MaxAbsScaler().get_params() else [])


@pytest.mark.parametrize("scaler", _clipping_scalers(), ids=_id)
def test_where_a_scaler_clips_there_is_no_slope_and_on_the_bounds_there_is(scaler: Any) -> None:
    model = _model(make_pipeline(scaler, LogisticRegression()).fit(X, Y))
    low, high = X.min(axis=0), X.max(axis=0)
    if isinstance(scaler, MaxAbsScaler):
        high = np.abs(X).max(axis=0)
        low = -high
    x = np.tile((low + high) / 2, (4, 1))
    x[1:, 3] = low[3] - 0.1, high[3] + 0.1, high[3]
    gradients = model.class_gradient(x, None, training_mode=False)
    assert (gradients[[1, 2], :, 3] == 0).all()
    assert (gradients[[0, 3], :, 3] != 0).all()
    assert (gradients[:, :, 2] != 0).all()
    _assert_close(gradients[:3], gradient(lambda x: model.predict(x, training_mode=False), x[:3]))


def test_products_of_zeros_have_slopes() -> None:
    fitted = make_pipeline(PolynomialFeatures(3), LogisticRegression()).fit(X, Y)
    x = X[:4].copy()
    x[0] = 0
    x[1, :5] = 0
    x[2, [1, 3]] = 0
    _assert_gradients(fitted, x, Y[:4])


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_a_row_of_zeros_can_be_predicted_but_has_no_gradient_behind_a_normalizer(norm: str) -> None:
    fitted = make_pipeline(Normalizer(norm), LogisticRegression()).fit(X, Y)
    model = _model(fitted)
    x = np.stack([X[0], 0 * X[0]])
    np.testing.assert_allclose(model.predict(x, training_mode=False), fitted.predict_proba(x), rtol=1e-12)
    with pytest.raises(InvalidValue, match="row 1 is all zeros before its Normalizer"):
        model.loss_gradient(x, Y[:2], training_mode=False)


@pytest.mark.parametrize("last", [Ridge(), SVR(), MLPRegressor(hidden_layer_sizes=(4,), max_iter=20, random_state=0)], ids=_id)
def test_regressors_have_scalers_in_front_too(last: Any) -> None:
    fitted = make_pipeline(StandardScaler(), PolynomialFeatures(2), clone(last)).fit(X, X[:, 0])
    model = _model(fitted, task="regression", nb_classes=1)
    x, y = X[:4] + 0.02, X[:4, 1]
    np.testing.assert_allclose(model.predict(x, training_mode=False)[:, 0], fitted.predict(x), rtol=1e-9)
    _assert_close(model.class_gradient(x, None, training_mode=False), gradient(lambda x: model.predict(x, training_mode=False), x))
    losses = gradient(lambda x: model.loss(x, y, training_mode=False), x)
    _assert_close(model.loss_gradient(x, y, training_mode=False), losses)


def test_layers_of_a_network_behind_a_scaler_are_functions_of_the_callers_rows() -> None:
    fitted = make_pipeline(StandardScaler(), MLPClassifier((5, 4), max_iter=20, random_state=0)).fit(X, Y)
    model = _model(fitted)
    assert model.layer_names == ["hidden_0", "hidden_1", "output"]
    numeric = gradient(lambda x: model.activations(x, -2, training_mode=False), X[:3])
    cotangent = np.random.default_rng(0).normal(size=(3, 4))
    _assert_close(model.vjp(X[:3], cotangent, "hidden_1", training_mode=False), np.einsum("nu,nud->nd", cotangent, numeric))


def test_defences_and_standardisation_stand_in_front_of_the_pipeline() -> None:
    fitted = make_pipeline(StandardScaler(), SVC()).fit(X, Y)
    estimator = load(_config(fitted, output="logits", preprocessing={"mean": 0.3, "std": 0.4}, preprocessing_defences=[Halve]))
    x, y = X[:4], Y[:4]
    np.testing.assert_allclose(
        estimator.predict(x), _model(fitted, output="logits").predict((x / 2 - 0.3) / 0.4, training_mode=False), rtol=1e-12
    )
    _assert_close(estimator.class_gradient(x, None), gradient(estimator.predict, x))
    _assert_close(estimator.loss_gradient(x, y), gradient(lambda x: estimator.loss(x, y), x))
    cotangent = np.random.default_rng(0).normal(size=(4, 3))
    _assert_close(estimator.vjp(x, cotangent), np.einsum("nc,ncd->nd", cotangent, gradient(estimator.predict, x)))


# What cannot be.


class _Scaler(StandardScaler):
    """An owner's own."""


def _halved(x: Array) -> Array:
    return x / 2


@pytest.mark.parametrize(
    ("pipeline", "reason"),
    [
        (make_pipeline(QuantileTransformer(), LogisticRegression()), "QuantileTransformer, a step of the pipeline"),
        (make_pipeline(FunctionTransformer(_halved), SVC()), "FunctionTransformer, a step of the pipeline"),
        (make_pipeline(_Scaler(), SVC()), "_Scaler, a step of the pipeline"),
        (make_pipeline(StandardScaler(), DecisionTreeClassifier()), "DecisionTreeClassifier is made of trees"),
        (GridSearchCV(DecisionTreeClassifier(), {"max_depth": [1, 2]}), "DecisionTreeClassifier is made of trees"),
    ],
    ids=_id,
)
def test_one_step_without_a_gradient_is_named(pipeline: Any, reason: str) -> None:
    model = _model(pipeline)
    assert not {Operation.LOSS_GRADIENT, Operation.CLASS_GRADIENT, Operation.VJP, Operation.LOSS} & capabilities(model)
    (note,) = model.notes
    assert note.startswith(f"no gradients: {reason}")


def test_the_note_names_the_steps() -> None:
    (note,) = _model(make_pipeline(StandardScaler(), "passthrough", PCA(3), GaussianNB())).notes
    assert note == "gradients are exact, in closed form, through StandardScaler, PCA, GaussianNB"


def test_class_weights_of_the_last_step_weigh_its_loss() -> None:
    plain, weighted = (
        make_pipeline(StandardScaler(), LogisticRegression(class_weight=weights)) for weights in (None, {0: 3.0, 1: 1.0, 2: 1.0})
    )
    model = _model(weighted.fit(X, Y))
    p = weighted.predict_proba(X[:6])
    expected = -np.log(p[np.arange(6), Y[:6]]) * np.where(Y[:6] == 0, 3.0, 1.0)
    np.testing.assert_allclose(model.loss(X[:6], Y[:6], training_mode=False), expected, rtol=1e-9)
    assert not any("balanced" in note for note in _model(plain).notes)
    assert "balanced" in _model(make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))).notes[1]


SEARCHES: list[Callable[[Any], Any]] = [
    lambda steps: GridSearchCV(Pipeline([("scale", StandardScaler()), ("last", SGDClassifier(loss="log_loss"))]), steps, cv=2),
    lambda steps: RandomizedSearchCV(
        Pipeline([("scale", StandardScaler()), ("last", SGDClassifier(loss="log_loss"))]), steps, n_iter=1, cv=2
    ),
]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_that_finds_another_kind_of_model_fails_and_changes_nothing(search: Callable[[Any], Any]) -> None:
    for steps in ({"scale": [QuantileTransformer(n_quantiles=10)]}, {"last__loss": ["hinge"]}):
        model = _model(search(steps))
        with pytest.raises(Unsupported, match="the best estimator found is .* which lacks outputs or gradients of the model"):
            model.fit(X, Y)
        assert not model.fitted
    model = _model(search({"last__alpha": [0.01], "scale": [MinMaxScaler(), "passthrough"]}))
    model.fit(X, Y)
    assert model.fitted


def test_a_search_over_hidden_layers_names_those_of_the_best() -> None:
    network = MLPClassifier((3,), max_iter=10, random_state=0)
    model = _model(GridSearchCV(network, {"hidden_layer_sizes": [(4, 3)]}, cv=2))
    assert model.layer_names == ["hidden_0", "output"]
    before = model.snapshot()
    model.fit(X, Y)
    assert model.layer_names == ["hidden_0", "hidden_1", "output"]
    assert model.activations(X[:2], 1, training_mode=False).shape == (2, 3)
    model.rollback(before)
    assert model.layer_names == ["hidden_0", "output"]


def test_a_search_that_keeps_no_model_is_refused() -> None:
    with pytest.raises(ModelConfigError, match="factory: returned GridSearchCV with refit=False, which keeps no model; set refit"):
        _model(GridSearchCV(SVC(), {"C": [1]}, refit=False))


@pytest.mark.parametrize("last", [LogisticRegression(), SVC(), MLPClassifier((4,), max_iter=10, random_state=0)], ids=_id)
def test_a_pipeline_is_saved_restored_and_cloned(last: Any, tmp_path: Path) -> None:
    model = _model(make_pipeline(StandardScaler(), PCA(4, whiten=True), PolynomialFeatures(2), clone(last)).fit(X[::2], Y[::2]))
    model.save(tmp_path / "version")
    before, gradients = model.predict(X, training_mode=False), model.loss_gradient(X, Y, training_mode=False)
    model.fit(X[1::2], Y[1::2])
    assert not np.array_equal(model.loss_gradient(X, Y, training_mode=False), gradients)
    untrained = model.untrained_clone()
    assert not untrained.fitted
    assert capabilities(untrained) == capabilities(model)
    model.restore(tmp_path / "version")
    np.testing.assert_array_equal(model.predict(X, training_mode=False), before)
    np.testing.assert_allclose(model.loss_gradient(X, Y, training_mode=False), gradients, rtol=1e-12, atol=1e-15)
