"""scikit-learn: a support vector machine and logistic regression on its digits, with gradients written by hand in numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from benchmarks.contenders.art import NAME as ART
from benchmarks.contenders.contender import Contender, Function, InThisProcess
from benchmarks.frameworks.setup import PLAIN, Setup
from benchmarks.model import NB_CLASSES, Array, Inputs

_FEATURES = 64


def setups(_: Path) -> list[Setup]:
    """Sets up both models, each with ART's estimator."""
    return [
        _setup("sklearn SVC", "svc", svc, _plain_svc, art_alone=True),
        _setup("sklearn LogisticRegression", "logistic_regression", logistic_regression, _plain_logistic_regression),
    ]


def svc() -> SVC:
    """Makes the SVC for gradwire's server: rbf kernel, 747 support vectors."""
    return SVC().fit(*_digits())


def logistic_regression() -> LogisticRegression:
    """Makes the logistic regression for gradwire's server."""
    return LogisticRegression(max_iter=2000).fit(*_digits())


@lru_cache
def _digits() -> tuple[Array, Array]:
    x, y = load_digits(return_X_y=True)
    return x / 16, y


def _inputs(rows: int, **kwargs: Any) -> Inputs:
    random = np.random.default_rng(rows)
    x, y = _digits()
    chosen = random.permutation(len(x))[:rows]
    one_hot = np.eye(NB_CLASSES, dtype=np.float32)[y[chosen]]
    cotangent = random.standard_normal((rows, NB_CLASSES), np.float32)
    return Inputs(x[chosen].astype(np.float32), y[chosen], one_hot, cotangent, rows)


def _setup(
    name: str, path: str, make: Callable[[], Any], plain: Callable[[Any], dict[str, Function]], art_alone: bool = False
) -> Setup:
    # Logits are what ART differentiates: scores of the machine, logarithms of the regression's probabilities.
    keys = {
        "backend": "sklearn",
        "factory": f"benchmarks.frameworks.sklearn:{path}",
        "output": "logits",
        "input_shape": [_FEATURES],
        "nb_classes": NB_CLASSES,
    }
    model = make()
    return Setup(
        name,
        keys,
        partial(_plain, plain, model),
        _inputs,
        art=partial(_art, model),
        not_arts=("loss_gradient",),
        art_alone=art_alone,
        same_outputs=False,
    )


@contextmanager
def _plain(functions: Callable[[Any], dict[str, Function]], model: Any) -> Iterator[Contender]:
    yield InThisProcess(PLAIN, functions(model), {name: version(name) for name in ("scikit-learn", "numpy")})


def _art(model: Any) -> Contender:
    from art.estimators.classification import SklearnClassifier

    estimator = SklearnClassifier(model)
    return InThisProcess(
        ART,
        {
            "loss_gradient": lambda i: estimator.loss_gradient(i.x, i.one_hot),
            "class_gradient_rows": lambda i: estimator.class_gradient(i.x, label=i.y),
            "class_gradient_all": lambda i: estimator.class_gradient(i.x),
        },
        {"adversarial-robustness-toolbox": version("adversarial-robustness-toolbox")},
    )


def _plain_logistic_regression(model: LogisticRegression) -> dict[str, Function]:
    weights = model.coef_

    def loss(i: Inputs) -> Array:
        rows: Array = -np.take_along_axis(model.predict_log_proba(i.x), i.y[:, None], axis=1)[:, 0]
        return rows

    def loss_gradient(i: Inputs) -> Array:
        errors = model.predict_proba(i.x)
        errors[np.arange(len(i.y)), i.y] -= 1
        gradient: Array = errors @ weights
        return gradient

    def class_gradient_rows(i: Inputs) -> Array:
        gradient: Array = weights[i.y] - model.predict_proba(i.x) @ weights
        return gradient[:, None]

    def class_gradient_all(i: Inputs) -> Array:
        gradient: Array = weights - (model.predict_proba(i.x) @ weights)[:, None]
        return gradient

    return {
        "predict": lambda i: model.predict_log_proba(i.x),
        "loss": loss,
        "loss_gradient": loss_gradient,
        "class_gradient_rows": class_gradient_rows,
        "class_gradient_all": class_gradient_all,
    }


def _plain_svc(model: SVC) -> dict[str, Function]:
    machine = _Machine(model)

    def score(i: Inputs) -> Array:
        scores: Array = np.take_along_axis(machine.scores(i.x), i.y[:, None], axis=1)[:, 0]
        return scores

    def class_gradient_all(i: Inputs) -> Array:
        x = i.x.astype(np.float64)
        slopes = machine.slopes(x)
        return np.stack([machine.gradient(x, slopes, machine.coefficients[k]) for k in range(NB_CLASSES)], axis=1)

    def of_labels(i: Inputs) -> Array:
        x = i.x.astype(np.float64)
        return machine.gradient(x, machine.slopes(x), machine.coefficients[i.y])

    return {
        "predict": lambda i: machine.scores(i.x),
        "loss": lambda i: -score(i),
        "loss_gradient": lambda i: -of_labels(i),
        "class_gradient_rows": lambda i: of_labels(i)[:, None],
        "class_gradient_all": class_gradient_all,
    }


class _Machine:
    """Scores of classes, each the sum of its one-vs-one decisions: a sum of kernels of the support vectors.

    Attributes:
        coefficients: ``(10, m)``, of the kernels in each score.
    """

    def __init__(self, model: SVC) -> None:
        self._vectors = model.support_vectors_
        self._gamma = 1 / (_FEATURES * _digits()[0].var())
        ends = np.cumsum(model.n_support_)
        of = [slice(end - count, end) for end, count in zip(ends, model.n_support_, strict=True)]
        self.coefficients = np.zeros((NB_CLASSES, len(self._vectors)))
        self._intercept = np.zeros(NB_CLASSES)
        for (a, b), intercept in zip(combinations(range(NB_CLASSES), 2), model.intercept_, strict=True):
            for rows, dual in ((of[a], model.dual_coef_[b - 1, of[a]]), (of[b], model.dual_coef_[a, of[b]])):
                self.coefficients[a, rows] += dual
                self.coefficients[b, rows] -= dual
            self._intercept[a] += intercept
            self._intercept[b] -= intercept

    def scores(self, x: Array) -> Array:
        scores: Array = self._kernels(x) @ self.coefficients.T + self._intercept
        return scores

    def slopes(self, x: Array) -> Array:
        slopes: Array = 2 * self._gamma * self._kernels(x)
        return slopes

    def gradient(self, x: Array, slopes: Array, coefficients: Array) -> Array:
        weighted = slopes * coefficients
        gradient: Array = weighted @ self._vectors - weighted.sum(axis=1)[:, None] * x
        return gradient

    def _kernels(self, x: Array) -> Array:
        x = x.astype(np.float64)
        squared = (x * x).sum(axis=1)[:, None] - 2 * x @ self._vectors.T + (self._vectors**2).sum(axis=1)
        kernels: Array = np.exp(-self._gamma * squared)
        return kernels
