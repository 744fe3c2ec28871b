"""scikit-learn: closed forms, and what predicts without gradients."""

from __future__ import annotations

from conformance.case import GRADIENTS, PREDICT, TRAINED, Case, uniform
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC


def iris_logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))


def digits_svc() -> SVC:
    x, y = load_digits(return_X_y=True)
    return SVC(gamma=0.02).fit(x[:400] / 16, y[:400])


def digits_forest() -> RandomForestClassifier:
    x, y = load_digits(return_X_y=True)
    return RandomForestClassifier(10, random_state=0).fit(x[:400] / 16, y[:400])


CASES = {    "sklearn-logistic": Case(
        dict(backend="sklearn", factory=iris_logistic, input_shape=[4], nb_classes=3, preprocessing={"mean": 0.2, "std": 0.3}),
        uniform(4), PREDICT | TRAINED | GRADIENTS,
    ),
    "sklearn-svc": Case(
        dict(backend="sklearn", factory=digits_svc, input_shape=[64], nb_classes=10),
        uniform(64), PREDICT | TRAINED | GRADIENTS - {"vjp"}, scores=False,
    ),
    "sklearn-forest": Case(
        dict(backend="sklearn", factory=digits_forest, input_shape=[8, 8], nb_classes=10), uniform(8, 8), PREDICT | TRAINED
    ),
}  # fmt: skip
