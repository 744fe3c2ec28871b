"""scikit-learn: closed forms, behind scalers too, and what predicts without gradients."""

from __future__ import annotations

from conformance.case import GRADIENTS, PREDICT, TRAINED, Case, Halve, uniform
from conformance.cases import diabetes
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC


def iris_logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))


def digits_svc() -> SVC:
    x, y = load_digits(return_X_y=True)
    return SVC(gamma=0.02).fit(x[:400] / 16, y[:400])


def digits_forest() -> RandomForestClassifier:
    x, y = load_digits(return_X_y=True)
    return RandomForestClassifier(10, random_state=0).fit(x[:400] / 16, y[:400])


def iris_network() -> Pipeline:
    """Two hidden layers, which callers can ask for, behind a scaler."""
    network = MLPClassifier((6, 5), activation="tanh", max_iter=200, random_state=0)
    return make_pipeline(StandardScaler(), network).fit(*load_iris(return_X_y=True))


def iris_bayes() -> Pipeline:
    return make_pipeline(Normalizer(), GaussianNB(var_smoothing=0.1)).fit(*load_iris(return_X_y=True))


def digits_pipeline() -> Pipeline:
    x, y = load_digits(return_X_y=True)
    return make_pipeline(PCA(12, random_state=0), SVC(kernel="poly", gamma=0.1, coef0=0.5)).fit(x[:400] / 16, y[:400])


def diabetes_ridge() -> Pipeline:
    """Its solver takes its time (half a second for thousands of rows), so that a fit can be cancelled while it is at it."""
    ridge = Ridge(solver="sag", max_iter=1000, tol=1e-30, random_state=0)
    return make_pipeline(StandardScaler(), ridge).fit(diabetes.X, diabetes.Y[:, 0])


def diabetes_network() -> Pipeline:
    """Two values, and hidden layers that callers can ask for."""
    network = MLPRegressor(hidden_layer_sizes=(8, 5), activation="tanh", max_iter=300, random_state=0)
    return make_pipeline(StandardScaler(), network).fit(diabetes.X, diabetes.Y_AND_SQUARE)


def diabetes_forest() -> RandomForestRegressor:
    return RandomForestRegressor(10, random_state=0).fit(diabetes.X, diabetes.Y[:, 0])


_REGRESSION = {"backend": "sklearn", "task": "regression", "input_shape": [diabetes.NB_FEATURES], "nb_classes": 1}

CASES = {
    "sklearn-logistic": Case(
        dict(backend="sklearn", factory=iris_logistic, input_shape=[4], nb_classes=3, preprocessing={"mean": 0.2, "std": 0.3}),
        uniform(4), PREDICT | TRAINED | GRADIENTS,
    ),
    "sklearn-svc": Case(
        dict(backend="sklearn", factory=digits_svc, input_shape=[64], nb_classes=10),
        uniform(64), PREDICT | TRAINED | GRADIENTS - {"vjp"}, scores=False,
    ),
    "sklearn-network": Case(
        dict(backend="sklearn", factory=iris_network, input_shape=[4], nb_classes=3, preprocessing_defences=[Halve]),
        uniform(4), PREDICT | TRAINED | GRADIENTS | {"get_activations"}, layers=("hidden_0", "hidden_1", "output"),
    ),
    "sklearn-bayes": Case(
        dict(backend="sklearn", factory=iris_bayes, input_shape=[2, 2], nb_classes=3, output="logits"),
        uniform(2, 2), PREDICT | TRAINED | GRADIENTS, long_fit_rows=600_000,
    ),
    "sklearn-pipeline": Case(
        dict(backend="sklearn", factory=digits_pipeline, input_shape=[8, 8], nb_classes=10),
        uniform(8, 8), PREDICT | TRAINED | GRADIENTS - {"vjp"}, scores=False,
    ),
    "sklearn-forest": Case(
        dict(backend="sklearn", factory=digits_forest, input_shape=[8, 8], nb_classes=10), uniform(8, 8), PREDICT | TRAINED
    ),
    "sklearn-regression": Case(
        dict(**_REGRESSION, factory=diabetes_ridge, preprocessing={"mean": 0.2, "std": 0.3}),
        diabetes.rows, PREDICT | TRAINED | GRADIENTS, targets=diabetes.targets(diabetes.Y),
    ),
    "sklearn-regression-network": Case(
        {**_REGRESSION, "factory": diabetes_network, "nb_classes": 2, "preprocessing_defences": [Halve]},
        diabetes.rows, PREDICT | TRAINED | GRADIENTS | {"get_activations"}, layers=("hidden_0", "hidden_1", "output"),
        targets=diabetes.targets(diabetes.Y_AND_SQUARE),
    ),
    "sklearn-regression-forest": Case(
        dict(**_REGRESSION, factory=diabetes_forest),
        diabetes.rows, PREDICT | TRAINED | {"loss"}, targets=diabetes.targets(diabetes.Y),
    ),
}  # fmt: skip
