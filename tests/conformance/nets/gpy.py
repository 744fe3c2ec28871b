"""Gaussian processes that the conformance body is run on."""

from __future__ import annotations

from typing import Any

import GPy
import numpy as np


def process(kernel: Any = None) -> Any:
    """Two classes of rows of four features."""
    x = np.random.default_rng(0).uniform(size=(30, 4))
    y = (x[:, :1] + np.sin(5 * x[:, 1:2]) > 1.1).astype(float)
    # Expectation propagation visits the rows in an order from numpy's global generator, and ends within 1e-4 of another order.
    np.random.seed(0)
    return GPy.models.GPClassification(x, y, kernel=kernel or GPy.kern.RBF(4, lengthscale=0.5, variance=4.0))


def polynomial() -> Any:
    """GPy has no gradients of this kernel."""
    return process(GPy.kern.Poly(4, order=2))


def matern() -> Any:
    """Parts that look at some of the features each."""
    return process(GPy.kern.Matern52(2, active_dims=[0, 1]) + GPy.kern.Linear(2, active_dims=[2, 3]) + GPy.kern.White(4))
