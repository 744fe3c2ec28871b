"""Every classifier and regressor that the installed scikit-learn lists: loaded, fitted, asked, saved and brought back."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
from differences import gradient
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC

from gradwire.backends import sklearn as backend
from gradwire.backends.capabilities import Operation, capabilities
from gradwire.backends.errors import ModelConfigError, Unsupported
from gradwire.backends.load import load

pytestmark = pytest.mark.filterwarnings("ignore")

Array = Any
X, Y = load_iris(return_X_y=True)
X, Y = X[::2], Y[::2].astype(np.int64)
TARGETS = 1 + X[:, 0] * X[:, 1] / 10
TWO_TARGETS = np.stack([TARGETS, X[:, 2] - X[:, 3]], axis=1)

# What an estimator must be given, and why it needs it.
ARGUMENTS: dict[str, dict[str, Any]] = {
    # These are made of others.
    "FixedThresholdClassifier": {"estimator": LogisticRegression()},
    "MultiOutputRegressor": {"estimator": Ridge()},
    "OneVsOneClassifier": {"estimator": LinearSVC()},
    "OneVsRestClassifier": {"estimator": LogisticRegression()},
    "OutputCodeClassifier": {"estimator": LinearSVC(), "random_state": 0},
    "RegressorChain": {"estimator": Ridge()},
    "SelfTrainingClassifier": {"estimator": GaussianNB()},
    "StackingClassifier": {"estimators": [("a", GaussianNB()), ("b", LinearSVC())], "cv": 2},
    "StackingRegressor": {"estimators": [("a", Ridge())], "cv": 2},
    "TunedThresholdClassifierCV": {"estimator": LogisticRegression(), "cv": 2},
    "VotingClassifier": {"estimators": [("a", GaussianNB()), ("b", LogisticRegression())], "voting": "soft"},
    "VotingRegressor": {"estimators": [("a", Ridge())]},
    # One component: as many as there are targets at most.
    "CCA": {"n_components": 1},
    "PLSCanonical": {"n_components": 1},
    "PLSRegression": {"n_components": 1},
    # The defaults do not suit the data.
    "RadiusNeighborsClassifier": {"radius": 9.0},
    "RadiusNeighborsRegressor": {"radius": 9.0},
    "MLPClassifier": {"hidden_layer_sizes": (7, 5), "activation": "tanh", "max_iter": 50},
    "MLPRegressor": {"hidden_layer_sizes": (7, 5), "activation": "logistic", "max_iter": 50},
    "SGDClassifier": {"loss": "log_loss"},
    "BernoulliNB": {"binarize": None},
    # Fewer members, or less work, to be quick.
    "AdaBoostClassifier": {"n_estimators": 5},
    "AdaBoostRegressor": {"n_estimators": 5},
    "BaggingClassifier": {"n_estimators": 5},
    "BaggingRegressor": {"n_estimators": 5},
    "ExtraTreesClassifier": {"n_estimators": 5},
    "ExtraTreesRegressor": {"n_estimators": 5},
    "GradientBoostingClassifier": {"n_estimators": 5},
    "GradientBoostingRegressor": {"n_estimators": 5},
    "HistGradientBoostingClassifier": {"max_iter": 5},
    "HistGradientBoostingRegressor": {"max_iter": 5},
    "LogisticRegressionCV": {"Cs": 2, "cv": 2},
    "RandomForestClassifier": {"n_estimators": 5},
    "RandomForestRegressor": {"n_estimators": 5},
    "TheilSenRegressor": {"max_subpopulation": 50},
}
# What must be fitted on something else than rows of four positive numbers with three classes or one target.
COUNTS = {"CategoricalNB": "its features are categories"}
BITS = {"BernoulliNB": "its features are 0 or 1 in the fit, where binarize is None"}
ONE_FEATURE = {"IsotonicRegression": "it takes a single feature"}
TWO_CLASSES = {"FixedThresholdClassifier": "a threshold is between two", "TunedThresholdClassifierCV": "a threshold is between two"}
SEVERAL_TARGETS = {
    "CCA": "its components are of the targets too",
    "MultiOutputRegressor": "it is for several",
    "MultiTaskElasticNet": "it is for several",
    "MultiTaskElasticNetCV": "it is for several",
    "MultiTaskLasso": "it is for several",
    "MultiTaskLassoCV": "it is for several",
    "PLSCanonical": "its components are of the targets too",
    "RegressorChain": "it is for several",
}
# A classifier that is served has one class a row.
NOT_SERVED = {
    "ClassifierChain": "it gives a row several labels",
    "MultiOutputClassifier": "it gives a row several labels",
}
NEEDS_NO_FIT = {"GaussianProcessRegressor": "it predicts from its prior"}
NOT_SAVED = {"TunedThresholdClassifierCV": "it keeps its metric, a function, which the owner must trust by name"}
# Gradients in closed form; all others must say why they have none.
DIFFERENTIABLE = {
    *("BernoulliNB", "ComplementNB", "GaussianNB", "LinearDiscriminantAnalysis", "LinearSVC", "LogisticRegression"),
    *("LogisticRegressionCV", "MLPClassifier", "MultinomialNB", "NuSVC", "PassiveAggressiveClassifier", "Perceptron"),
    *("QuadraticDiscriminantAnalysis", "RidgeClassifier", "RidgeClassifierCV", "SGDClassifier", "SVC"),
    *("ARDRegression", "BayesianRidge", "CCA", "ElasticNet", "ElasticNetCV", "GammaRegressor", "HuberRegressor", "KernelRidge"),
    *("Lars", "LarsCV", "Lasso", "LassoCV", "LassoLars", "LassoLarsCV", "LassoLarsIC", "LinearRegression", "LinearSVR"),
    *("MLPRegressor", "MultiTaskElasticNet", "MultiTaskElasticNetCV", "MultiTaskLasso", "MultiTaskLassoCV", "NuSVR"),
    *("OrthogonalMatchingPursuit", "OrthogonalMatchingPursuitCV", "PLSCanonical", "PLSRegression", "PassiveAggressiveRegressor"),
    *("PoissonRegressor", "QuantileRegressor", "RANSACRegressor", "Ridge", "RidgeCV", "SGDRegressor", "SVR", "TheilSenRegressor"),
    "TweedieRegressor",
}


def listed(mixin: type) -> list[tuple[str, Any]]:
    """Estimators that `all_estimators` lists, without the torch that it imports on its way."""
    public = (module.name for module in pkgutil.iter_modules(sklearn.__path__) if not module.name.startswith("_"))
    modules = [
        importlib.import_module(f"sklearn.{name}") for name in public if name not in ("conftest", "experimental", "externals")
    ]
    found = [
        kind for module in modules for name, kind in vars(module).items() if isinstance(kind, type) and not name.startswith("_")
    ]
    kinds = {kind for kind in found if issubclass(kind, mixin) and issubclass(kind, BaseEstimator) and not inspect.isabstract(kind)}
    return sorted((kind.__name__, kind) for kind in kinds)


FAMILY = [(name, kind, "classifier") for name, kind in listed(ClassifierMixin)]
FAMILY += [(name, kind, "regressor") for name, kind in listed(RegressorMixin)]


def test_no_estimator_is_missed() -> None:
    from sklearn.utils.discovery import all_estimators

    classifiers, regressors = all_estimators(type_filter="classifier"), all_estimators(type_filter="regressor")
    assert [(*found, "classifier") for found in classifiers] + [(*found, "regressor") for found in regressors] == FAMILY


def _estimator(name: str, kind: Any) -> Any:
    arguments = dict(ARGUMENTS.get(name, {}))
    estimator = kind(**arguments)
    return estimator.set_params(random_state=0) if "random_state" in estimator.get_params(deep=False) else estimator


def _data(name: str, of: str) -> tuple[Array, Array]:
    x = X
    if name in COUNTS:
        x = np.floor(X)
    elif name in BITS:
        x = (X.mean(axis=0) < X).astype(np.float64)
    elif name in ONE_FEATURE:
        x = X[:, :1]
    if of == "regressor":
        return x, TWO_TARGETS if name in SEVERAL_TARGETS else TARGETS
    return (x[Y < 2], Y[Y < 2]) if name in TWO_CLASSES else (x, Y)


def _config(estimator: Any, x: Array, y: Array, of: str, output: str | None = None) -> backend.Config:
    return backend.Config(
        backend="sklearn",
        factory=lambda: estimator,
        task="classification" if of == "classifier" else "regression",
        input_shape=x.shape[1:],
        nb_classes=len(np.unique(y)) if of == "classifier" else y.reshape(len(y), -1).shape[1],
        output=output,
    )


SERVED = [pytest.param(*member, id=member[0]) for member in FAMILY if member[0] not in NOT_SERVED]


@pytest.mark.parametrize(("name", "kind", "of"), SERVED)
def test_a_member_of_the_family_is_served(name: str, kind: Any, of: str, tmp_path: Path) -> None:
    estimator = _estimator(name, kind)
    x, y = _data(name, of)
    served = load(_config(estimator, x, y, of))
    model: Any = served.model
    assert model.fitted == (name in NEEDS_NO_FIT)

    model.fit(x, y)
    expected = clone(estimator).fit(x, y)
    outputs = model.predict(x, training_mode=False)
    if model.output_kind == "probabilities":
        np.testing.assert_allclose(outputs, expected.predict_proba(x), rtol=1e-6, atol=1e-9)
    elif model.output_kind == "labels":
        np.testing.assert_array_equal(outputs, np.eye(outputs.shape[1])[expected.predict(x)])
    else:
        np.testing.assert_allclose(outputs, np.asarray(expected.predict(x)).reshape(len(x), -1), rtol=1e-6, atol=1e-9)

    assert load(_config(expected, x, y, of)).model.fitted
    if name in NOT_SAVED:
        with pytest.raises(Unsupported, match="name them in trust_types"):
            model.save(tmp_path / "version")
        return
    model.save(tmp_path / "version")
    model.fit(x[::2], y[::2])  # of every class
    model.restore(tmp_path / "version")
    # Label propagation is 4e-14 off: its arrays come back in another order in memory, so that sums are.
    np.testing.assert_allclose(model.predict(x, training_mode=False), outputs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "kind", "of"), SERVED)
def test_a_member_of_the_family_has_the_gradients_of_its_outputs_or_says_why_not(name: str, kind: Any, of: str) -> None:
    estimator = _estimator(name, kind)
    x, y = _data(name, of)
    model: Any = load(_config(estimator.fit(x, y), x, y, of)).model
    can = {Operation.LOSS_GRADIENT, Operation.CLASS_GRADIENT} & capabilities(model)
    if name not in DIFFERENTIABLE:
        assert not can
        (note,) = (note for note in model.notes if "gradients" in note)
        assert note.startswith("no gradients: ")
        assert name in note
        assert "predictions alone" in note
        return
    assert len(can) == 2
    assert any("exact, in closed form" in note for note in model.notes)

    smooth: Any = model
    if Operation.VJP not in capabilities(model):
        smooth = load(_config(estimator, x, y, of, output="logits")).model
    # Away from the training data, where a machine may have its kinks, and between 0 and 1 for what has bits.
    rows, labels = x[::10] * 0.9 + 0.03, y[::10]
    numeric = gradient(lambda x: smooth.predict(x, training_mode=False), rows)
    size = max(1.0, np.abs(numeric).max())
    np.testing.assert_allclose(model.class_gradient(rows, None, training_mode=False), numeric, rtol=1e-6, atol=1e-7 * size)
    losses = gradient(lambda x: model.loss(x, labels, training_mode=False), rows)
    size = max(1.0, np.abs(losses).max())
    np.testing.assert_allclose(model.loss_gradient(rows, labels, training_mode=False), losses, rtol=1e-6, atol=1e-7 * size)


@pytest.mark.parametrize("name", NOT_SERVED)
def test_a_classifier_of_several_labels_a_row_is_refused(name: str) -> None:
    kind = {member: kind for member, kind, _ in FAMILY}[name]
    with pytest.raises(ModelConfigError, match=f"factory: returned {name}, which gives a row several labels"):
        load(_config(kind(LogisticRegression()), X, Y, "classifier"))


def test_the_tables_name_estimators_that_there_are() -> None:
    there = {name for name, _, _ in FAMILY}
    for table in (ARGUMENTS, COUNTS, BITS, ONE_FEATURE, TWO_CLASSES, SEVERAL_TARGETS, NOT_SERVED, NOT_SAVED):
        # scikit-learn 1.9 has them all; another one may lack the newest.
        assert set(table) - there <= {"FixedThresholdClassifier", "TunedThresholdClassifierCV"}
