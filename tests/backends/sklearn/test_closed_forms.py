"""Closed forms equal scikit-learn's results, and their gradients equal central differences."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from differences import gradient
from sklearn.base import clone
from sklearn.cross_decomposition import PLSRegression
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import AdaBoostClassifier, BaggingClassifier, RandomForestClassifier, RandomForestRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    Lasso,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    PoissonRegressor,
    RANSACRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    TweedieRegressor,
)
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.naive_bayes import BernoulliNB, ComplementNB, GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVR

from gradwire.backends import sklearn as backend
from gradwire.backends.capabilities import Operation, capabilities
from gradwire.backends.errors import InvalidLabel, InvalidLayer, InvalidShape
from gradwire.backends.load import load

pytestmark = pytest.mark.filterwarnings("ignore")

Array = Any
X, Y = load_digits(return_X_y=True)
X, Y = X[:400] / 16, Y[:400].astype(np.int64)
# Eight of the pixels, all of which vary.
PIXELS = X[:, X.var(axis=0).argsort()[-8:]]
TARGETS = 1 + np.stack([PIXELS[:, :4].sum(axis=1), PIXELS[:, 0] * PIXELS[:, 5]], axis=1)

NETWORKS: list[Any] = [
    MLPClassifier((6, 5), activation=activation, max_iter=30, random_state=0)
    for activation in ("identity", "logistic", "tanh", "relu")
] + [MLPClassifier(7, max_iter=30, random_state=0), MLPClassifier((), max_iter=30, random_state=0)]
PROBABLE: list[Any] = [
    *NETWORKS,
    GaussianNB(),
    GaussianNB(var_smoothing=0.1),
    QuadraticDiscriminantAnalysis(reg_param=0.1),
    QuadraticDiscriminantAnalysis(solver="eigen", shrinkage=0.2),
    LinearDiscriminantAnalysis(),
    LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    MultinomialNB(),
    ComplementNB(),
    ComplementNB(norm=True),
    BernoulliNB(binarize=None),
    SGDClassifier(loss="log_loss", random_state=0),
    SGDClassifier(loss="log_loss", class_weight={0: 3.0}, random_state=0),
]
SCORED: list[Any] = [
    SGDClassifier(random_state=0),
    SGDClassifier(loss="modified_huber", random_state=0),
    Perceptron(random_state=0),
    RidgeClassifier(),
]
REGRESSORS: list[Any] = [
    *(
        MLPRegressor(hidden_layer_sizes=(6, 5), activation=a, max_iter=30, random_state=0)
        for a in ("identity", "logistic", "tanh", "relu")
    ),
    *(SVR(kernel=kernel, gamma=0.3, coef0=0.4) for kernel in ("linear", "rbf", "poly", "sigmoid")),
    SVR(gamma="auto"),
    NuSVR(),
    NuSVR(kernel="poly", degree=2),
    *(KernelRidge(kernel=kernel, coef0=0.5) for kernel in ("linear", "rbf", "poly", "polynomial", "sigmoid")),
    KernelRidge(kernel="rbf", gamma=0.7),
    LinearSVR(),
    Ridge(fit_intercept=False),
    Lasso(alpha=0.01),
    RANSACRegressor(random_state=0),
    RANSACRegressor(SVR(), min_samples=50, random_state=0),
    PLSRegression(3),
    PoissonRegressor(),
    TweedieRegressor(power=1.5),
    TweedieRegressor(power=0),
    TweedieRegressor(power=0, link="log", max_iter=1000),
]
FOR_SEVERAL_TARGETS: list[Any] = [
    MLPRegressor(hidden_layer_sizes=(6,), max_iter=30, random_state=0),
    KernelRidge(kernel="rbf"),
    LinearRegression(),
    PLSRegression(2),
]


def _id(estimator: Any) -> str:
    return str(estimator)


def _model(estimator: Any, **keys: Any) -> Any:
    keys = {"nb_classes": 10, "input_shape": (8,), **keys}
    return backend.load(backend.Config(backend="sklearn", factory=lambda: estimator, **keys))


def _rows(nb_classes: int, count: int = 150) -> tuple[Array, Array]:
    chosen = nb_classes > Y
    x = PIXELS[chosen][:count]
    return x, Y[chosen][:count]


def _fitted(estimator: Any, nb_classes: int) -> Any:
    x, y = _rows(nb_classes)
    # BernoulliNB without binarize takes probabilities, but is fitted on bits.
    return clone(estimator).fit((x > 0.5).astype(float) if isinstance(estimator, BernoulliNB) else x, y)


def _assert_close(actual: Array, expected: Array) -> None:
    # Central differences with a step of 1e-5 leave 1e-10 of truncation and 1e-11 of rounding, times the size of the values.
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7 * max(1.0, np.abs(expected).max()))


def _away_from_kinks(nb_classes: int) -> Array:
    return 0.05 + 0.9 * _rows(nb_classes)[0][:5]


# Classifiers.


@pytest.mark.parametrize("nb_classes", [2, 4])
@pytest.mark.parametrize("output", [None, "logits"])
@pytest.mark.parametrize("estimator", PROBABLE, ids=_id)
def test_outputs_are_the_probabilities_and_class_gradients_are_theirs(estimator: Any, output: str | None, nb_classes: int) -> None:
    fitted = _fitted(estimator, nb_classes)
    model = _model(fitted, nb_classes=nb_classes, output=output)
    x = _away_from_kinks(nb_classes)
    predictions = model.predict(x, training_mode=False)
    np.testing.assert_allclose(np.exp(predictions) if output else predictions, fitted.predict_proba(x), rtol=1e-6, atol=1e-12)

    numeric = gradient(lambda x: model.predict(x, training_mode=False), x)
    gradients = model.class_gradient(x.reshape(5, 2, 4), None, training_mode=False)
    assert gradients.shape == (5, nb_classes, 2, 4)
    assert gradients.flags.c_contiguous
    _assert_close(gradients.reshape(5, nb_classes, 8), numeric)
    label = np.array([0, 1, 1, 0, nb_classes - 1])
    one = model.class_gradient(x, label, training_mode=False)
    assert one.shape == (5, 1, 8)
    _assert_close(one[:, 0], numeric[np.arange(5), label])
    cotangent = np.random.default_rng(0).normal(size=(5, nb_classes))
    _assert_close(model.vjp(x, cotangent, None, training_mode=False), np.einsum("nc,ncd->nd", cotangent, numeric))


@pytest.mark.parametrize("nb_classes", [2, 4])
@pytest.mark.parametrize("output", [None, "logits"])
@pytest.mark.parametrize("estimator", PROBABLE, ids=_id)
def test_the_loss_is_cross_entropy_of_index_and_soft_labels(estimator: Any, output: str | None, nb_classes: int) -> None:
    fitted = _fitted(estimator, nb_classes)
    model = _model(fitted, nb_classes=nb_classes, output=output)
    assert model.loss_name == "cross-entropy"
    x, y = _away_from_kinks(nb_classes), _rows(nb_classes)[1][:5]
    p = fitted.predict_proba(x)
    weights = getattr(fitted, "class_weight", None) or {}
    expected = [weights.get(c, 1.0) * log_loss([c], p[i : i + 1], labels=range(nb_classes)) for i, c in enumerate(y.tolist())]
    np.testing.assert_allclose(model.loss(x, y, training_mode=False), expected, rtol=1e-5, atol=1e-10)
    for labels in (y, np.random.default_rng(0).dirichlet(np.ones(nb_classes), 5)):
        loss = model.loss(x, labels, training_mode=False)
        # Narrow densities bend sharply: with a step of 1e-5, differences are 2e-6 off, and 100 times less with this one.
        step = 1e-6 if isinstance(estimator, GaussianNB) else 1e-5
        numeric = gradient(lambda x, labels=labels: model.loss(x, labels, training_mode=False), x, step)
        _assert_close(model.loss_gradient(x, labels, training_mode=False), numeric)
        predictions = model.predict(x, training_mode=False)
        # Of a probability that has underflowed, an outsider cannot know the logarithm.
        known = np.isfinite(predictions).all(axis=1) if output else (predictions > 0).all(axis=1)
        of_predictions = model.loss_from_predictions(predictions, labels)
        np.testing.assert_allclose(of_predictions[known], loss[known], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("nb_classes", [2, 4])
@pytest.mark.parametrize("estimator", SCORED, ids=_id)
def test_what_only_scores_has_gradients_of_its_decisions(estimator: Any, nb_classes: int) -> None:
    fitted = _fitted(estimator, nb_classes)
    model, scores = _model(fitted, nb_classes=nb_classes), _model(fitted, nb_classes=nb_classes, output="logits")
    x, y = (a[:5] for a in _rows(nb_classes))
    decision = fitted.decision_function(x)
    expected = np.stack([-decision, decision], 1) if nb_classes == 2 else decision
    np.testing.assert_allclose(scores.predict(x, training_mode=False), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.loss(x, y, training_mode=False), -expected[np.arange(5), y], rtol=1e-9, atol=1e-12)
    numeric = gradient(lambda x: scores.predict(x, training_mode=False), x)
    for one in (model, scores):
        assert one.loss_name == "negated score of the label"
        _assert_close(one.class_gradient(x, None, training_mode=False), numeric)
        _assert_close(one.loss_gradient(x, y, training_mode=False), -numeric[np.arange(5), y])
    assert Operation.VJP not in capabilities(model)
    assert Operation.VJP in capabilities(scores)
    predicted = model.predict(x, training_mode=False)
    if hasattr(fitted, "predict_proba"):
        np.testing.assert_array_equal(predicted, fitted.predict_proba(x))
    else:
        np.testing.assert_array_equal(predicted.argmax(axis=1), fitted.predict(x))


def test_a_variance_next_to_nothing_keeps_its_digits() -> None:
    # Corner pixels are white in all digits of some classes: variances of 1e-9.
    fitted = GaussianNB().fit(X, Y)
    model = _model(fitted, input_shape=(64,), output="logits")
    np.testing.assert_allclose(model.predict(X, training_mode=False), fitted.predict_log_proba(X), rtol=1e-12, atol=1e-8)
    gradients = model.class_gradient(X[:2], None, training_mode=False)
    slope = (fitted.theta_ - X[:2, None]) / fitted.var_
    p = fitted.predict_proba(X[:2])
    expected = slope - np.einsum("nk,nkd->nd", p, slope)[:, None]
    np.testing.assert_allclose(gradients, expected, rtol=1e-9, atol=1e-6)


def test_a_class_that_the_owner_gave_no_probability_has_an_infinite_loss_and_spoils_no_other() -> None:
    x, y = _rows(3)
    model = _model(GaussianNB(priors=[0.5, 0.5, 0.0]).fit(x, y), nb_classes=3, output="logits")
    assert np.isneginf(model.predict(x[:3], training_mode=False)[:, 2]).all()
    labels = np.array([0, 1, 0])
    assert np.isfinite(model.loss(x[:3], labels, training_mode=False)).all()
    numeric = gradient(lambda x: model.loss(x, labels, training_mode=False), x[:3])
    _assert_close(model.loss_gradient(x[:3], labels, training_mode=False), numeric)
    assert model.loss(x[:3], np.array([2, 2, 2]), training_mode=False).min() > 1e300


# Networks.


@pytest.mark.parametrize("estimator", NETWORKS[:4], ids=_id)
def test_hidden_layers_have_activations_and_products_with_their_jacobian(estimator: Any) -> None:
    fitted = _fitted(estimator, 4)
    model = _model(fitted, nb_classes=4)
    assert model.layer_names == ["hidden_0", "hidden_1", "output"]
    x = _away_from_kinks(4)
    given = fitted._forward_pass([x, *([None] * 3)])
    for index, name in enumerate(model.layer_names):
        activations = model.activations(x, name, training_mode=False)
        np.testing.assert_allclose(activations, given[index + 1], rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(model.activations(x, index - 3, training_mode=False), activations)
        cotangent = np.random.default_rng(0).normal(size=activations.shape)
        numeric = gradient(lambda x, name=name: model.activations(x, name, training_mode=False), x)
        _assert_close(model.vjp(x, cotangent, name, training_mode=False), np.einsum("nu,nud->nd", cotangent, numeric))
    with pytest.raises(InvalidLayer, match="no layer 'hidden_2'; its layers are hidden_0, hidden_1, output"):
        model.activations(x, "hidden_2", training_mode=False)
    with pytest.raises(InvalidLayer, match="index 3 is out of range; the model has 3 layers"):
        model.vjp(x, cotangent, 3, training_mode=False)
    with pytest.raises(InvalidShape, match=r"cotangent has shape \(5, 7\); expected \(5, 6\), the outputs of layer 'hidden_0'"):
        model.vjp(x, np.ones((5, 7)), "hidden_0", training_mode=False)


def test_a_network_knows_its_layers_before_it_is_fitted() -> None:
    model = _model(MLPClassifier((4, 3, 2)), nb_classes=3)
    assert model.layer_names == ["hidden_0", "hidden_1", "hidden_2", "output"]
    assert Operation.GET_ACTIVATIONS in capabilities(model)
    assert _model(MLPClassifier(()), nb_classes=3).layer_names == ["output"]
    assert Operation.GET_ACTIVATIONS not in capabilities(_model(LogisticRegression(), nb_classes=3))


def test_the_output_layer_has_the_columns_of_predict_also_of_classes_that_a_fit_did_not_see() -> None:
    some = np.isin(Y, (1, 3, 8))
    model = _model(MLPClassifier((4,), max_iter=10, random_state=0).fit(PIXELS[some], Y[some]))
    x = PIXELS[:3]
    outputs = model.activations(x, "output", training_mode=False)
    np.testing.assert_array_equal(outputs, model.predict(x, training_mode=False))
    cotangent = np.random.default_rng(0).normal(size=(3, 10))
    expected = model.vjp(x, cotangent, None, training_mode=False)
    np.testing.assert_array_equal(model.vjp(x, cotangent, -1, training_mode=False), expected)


def test_answers_do_not_share_memory_with_the_model() -> None:
    fitted = _fitted(NETWORKS[0], 4)
    weights = [w.copy() for w in fitted.coefs_]
    model = _model(fitted, nb_classes=4)
    x = _away_from_kinks(4)
    for answer in (
        model.class_gradient(x, None, training_mode=False),
        model.loss_gradient(x, np.zeros(5, np.int64), training_mode=False),
        model.activations(x, 0, training_mode=False),
    ):
        answer += 1
    for after, before in zip(fitted.coefs_, weights, strict=True):
        np.testing.assert_array_equal(after, before)


def test_a_fit_on_digits_is_as_good_as_scikit_learns() -> None:
    network = MLPClassifier((32,), max_iter=200, random_state=0)
    model = _model(network, input_shape=(64,))
    model.fit(X[:300], Y[:300])
    expected = clone(network).fit(X[:300], Y[:300]).score(X[300:], Y[300:])
    assert (model.predict(X[300:], training_mode=False).argmax(axis=1) == Y[300:]).mean() == expected > 0.85


# Regressors.


def _assert_regressor(fitted: Any, targets: Array) -> None:
    outputs = targets.reshape(len(targets), -1).shape[1]
    model = _model(fitted, task="regression", nb_classes=outputs)
    x, y = 0.05 + 0.9 * PIXELS[:5], targets[:5]
    predictions = model.predict(x, training_mode=False)
    np.testing.assert_allclose(predictions, np.asarray(fitted.predict(x)).reshape(5, -1), rtol=1e-9, atol=1e-12)
    numeric = gradient(lambda x: model.predict(x, training_mode=False), x)
    _assert_close(model.class_gradient(x, None, training_mode=False), numeric)
    last = np.full(5, outputs - 1)
    _assert_close(model.class_gradient(x, last, training_mode=False), numeric[:, -1:])
    cotangent = np.random.default_rng(0).normal(size=predictions.shape)
    _assert_close(model.vjp(x, cotangent, None, training_mode=False), np.einsum("nc,ncd->nd", cotangent, numeric))

    losses = model.loss(x, y, training_mode=False)
    np.testing.assert_allclose(losses.mean(), mean_squared_error(y.reshape(5, -1), predictions), rtol=1e-12)
    np.testing.assert_array_equal(model.loss_from_predictions(predictions, y), losses)
    _assert_close(model.loss_gradient(x, y, training_mode=False), gradient(lambda x: model.loss(x, y, training_mode=False), x))
    assert (model.loss_reduction, model.loss_divisor(y)) == ("mean", 5)
    with pytest.raises(InvalidLabel, match="one number for each output"):
        model.loss_gradient(x, np.zeros((5, outputs + 1)), training_mode=False)
    with pytest.raises(InvalidLabel, match=f"label {outputs} is out of range"):
        model.class_gradient(x, np.full(5, outputs), training_mode=False)


@pytest.mark.parametrize("estimator", REGRESSORS, ids=_id)
def test_a_regressor_has_the_gradient_of_its_value_and_of_the_squared_error(estimator: Any) -> None:
    _assert_regressor(clone(estimator).fit(PIXELS[:150], TARGETS[:150, 0]), TARGETS[:, 0])


@pytest.mark.parametrize("estimator", FOR_SEVERAL_TARGETS, ids=_id)
def test_a_regressor_of_several_targets_has_gradients_of_each(estimator: Any) -> None:
    _assert_regressor(clone(estimator).fit(PIXELS[:150], TARGETS[:150]), TARGETS)


def test_a_network_with_a_poisson_loss_ends_in_an_exponential() -> None:
    if "loss" not in MLPRegressor().get_params():
        pytest.skip("scikit-learn has it since 1.7")
    network = MLPRegressor(hidden_layer_sizes=(6,), loss="poisson", max_iter=30, random_state=0)
    _assert_regressor(network.fit(PIXELS[:150], TARGETS[:150, 0]), TARGETS[:, 0])


# What has no closed form.


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        (RandomForestClassifier(3), "RandomForestClassifier is made of trees, whose outputs are constant between thresholds"),
        (AdaBoostClassifier(n_estimators=2), "AdaBoostClassifier is made of trees"),
        (BaggingClassifier(AdaBoostClassifier(n_estimators=2), 2), "BaggingClassifier is made of trees"),
        (BaggingClassifier(SVC(), 2), "BaggingClassifier has no gradient in closed form here"),
        (KNeighborsClassifier(), "KNeighborsClassifier counts neighbours"),
        (KNeighborsClassifier(weights="distance"), "KNeighborsClassifier has no gradient in closed form here"),
        (BernoulliNB(binarize=0.5), "BernoulliNB makes its inputs 0 or 1 first"),
        (SVC(kernel="precomputed"), "SVC has no gradient in closed form here"),
    ],
    ids=_id,
)
def test_a_model_without_gradients_says_why_and_what_to_do_instead(estimator: Any, reason: str) -> None:
    (note,) = _model(estimator).notes
    assert note.startswith(f"no gradients: {reason}")
    assert note.endswith("attacks that need predictions alone work, such as HopSkipJump, Boundary or ZOO")


def test_a_model_with_gradients_says_what_they_go_through() -> None:
    assert _model(GaussianNB()).notes == ["gradients are exact, in closed form, through GaussianNB"]
    assert _model(LogisticRegression(class_weight="balanced")).notes[1].startswith("the loss weighs all classes alike")
    scores, gradients = _model(LinearSVC()).notes
    assert "predict gives labels" in scores
    assert "LinearSVC" in gradients
    (forest,) = _model(RandomForestRegressor(), task="regression", nb_classes=1).notes
    assert forest.startswith("no gradients: RandomForestRegressor is made of trees")


# ART, where it is right.


def test_predictions_and_losses_of_regressors_are_arts() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.estimators.regression.scikitlearn import ScikitlearnRegressor
    for estimator in (LinearRegression(), RandomForestRegressor(3, random_state=0), SVR()):
        fitted = estimator.fit(PIXELS, TARGETS[:, 0])
        model, arts = _model(fitted, task="regression", nb_classes=1), ScikitlearnRegressor(fitted)
        np.testing.assert_allclose(model.predict(PIXELS, training_mode=False)[:, 0], arts.predict(PIXELS), rtol=1e-9)
        expected = arts.compute_loss(PIXELS, TARGETS[:, 0])
        np.testing.assert_allclose(model.loss(PIXELS, TARGETS[:, 0], training_mode=False), expected, rtol=1e-7, atol=1e-12)


def test_art_preprocesses_rows_twice_in_gradients_of_logistic_regression() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.estimators.classification import SklearnClassifier
    x, y = _rows(2)
    fitted = LogisticRegression().fit((x - 0.4) / 0.2, y)
    keys: dict[str, Any] = {"nb_classes": 2, "input_shape": (8,), "preprocessing": {"mean": 0.4, "std": 0.2}}
    ours = load(backend.Config(backend="sklearn", factory=lambda: fitted, **keys))
    arts = SklearnClassifier(fitted, preprocessing=(0.4, 0.2))
    x, y = x[:4], y[:4]
    np.testing.assert_allclose(ours.predict(x), arts.predict(x), rtol=1e-6)
    expected = gradient(lambda x: ours.loss(x, y), x)
    _assert_close(ours.loss_gradient(x, y), expected)
    assert np.abs(arts.loss_gradient(x, np.eye(2)[y]) - expected).max() > 0.1 * np.abs(expected).max()
    # The probabilities are those of rows that were preprocessed once more.
    twice = load(backend.Config(backend="sklearn", factory=lambda: fitted, **{**keys, "preprocessing": None}))
    again = ((x - 0.4) / 0.2 - 0.4) / 0.2
    np.testing.assert_allclose(arts.loss_gradient(x, np.eye(2)[y]), twice.loss_gradient(again, y) / 0.2, rtol=1e-5, atol=1e-9)
