"""scikit-learn's classifiers for digits, fitted by scikit-learn alone: their own settings, and all rows at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC


def logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=200)


def network() -> MLPClassifier:
    return MLPClassifier((32,), max_iter=60, random_state=0)


def svc() -> Pipeline:
    return make_pipeline(StandardScaler(), SVC(gamma=0.02))


def bayes() -> GaussianNB:
    return GaussianNB(var_smoothing=0.01)


def forest() -> RandomForestClassifier:
    return RandomForestClassifier(30, random_state=0)


def plain(factory: Callable[[], Any], x: Any, y: Any, held_out: Any) -> Any:
    return factory().fit(x.astype("float64"), y).predict(held_out.astype("float64"))


MODELS = {
    f"sklearn-{factory.__name__}": (dict(backend="sklearn", factory=factory, input_shape=[64]), partial(plain, factory))
    for factory in (logistic, network, svc, bayes, forest)
}
