"""Gaussian processes: a smooth kernel, one without derivatives of its own, features in two axes, a defence in front."""

from __future__ import annotations

from typing import Any

import GPy
import numpy as np
from conformance.case import GRADIENTS, PREDICT, Case, Halve, uniform


def process(kernel: Any = None) -> Any:
    """Two classes of rows of four features."""
    x = np.random.default_rng(0).uniform(size=(30, 4))
    y = (x[:, :1] + np.sin(5 * x[:, 1:2]) > 1.1).astype(float)
    return GPy.models.GPClassification(x, y, kernel=kernel or GPy.kern.RBF(4, lengthscale=0.5, variance=4.0))


def polynomial() -> Any:
    """GPy has no gradients of this kernel."""
    return process(GPy.kern.Poly(4, order=2))


def matern() -> Any:
    """Parts that look at some of the features each."""
    return process(GPy.kern.Matern52(2, active_dims=[0, 1]) + GPy.kern.Linear(2, active_dims=[2, 3]) + GPy.kern.White(4))


CASES = {
    "gpy-rbf": Case(
        dict(backend="gpy", factory=process, input_shape=[4], nb_classes=2, preprocessing={"mean": 0.1, "std": 0.8}),
        uniform(4), PREDICT | GRADIENTS,
    ),
    "gpy-poly": Case(
        dict(backend="gpy", factory=polynomial, input_shape=[2, 2], nb_classes=2, loss="cross_entropy"),
        uniform(2, 2), PREDICT | GRADIENTS,
    ),
    "gpy-defended": Case(
        dict(backend="gpy", factory=matern, input_shape=[4], nb_classes=2, loss="cross_entropy",
             preprocessing={"mean": [0.1, 0.2, 0.3, 0.4], "std": 0.5}, preprocessing_defences=[Halve]),
        uniform(4), PREDICT | GRADIENTS,
    ),
}  # fmt: skip
