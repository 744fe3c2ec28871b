"""Estimators of scikit-learn that the conformance body is run on."""

from __future__ import annotations

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
    """Ridge regression with a slow solver (half a second for thousands of rows), so that a fit can be cancelled."""
    ridge = Ridge(solver="sag", max_iter=1000, tol=1e-30, random_state=0)
    return make_pipeline(StandardScaler(), ridge).fit(diabetes.x(), diabetes.y()[:, 0])


def diabetes_network() -> Pipeline:
    """Two values, and hidden layers that callers can ask for."""
    network = MLPRegressor(hidden_layer_sizes=(8, 5), activation="tanh", max_iter=300, random_state=0)
    return make_pipeline(StandardScaler(), network).fit(diabetes.x(), diabetes.y_and_square())


def diabetes_forest() -> RandomForestRegressor:
    return RandomForestRegressor(10, random_state=0).fit(diabetes.x(), diabetes.y()[:, 0])
