"""Gradients of a Gaussian process's class probability with respect to its inputs.

The probability is a squashed ``z = mu / sqrt(c + v)`` of the latent mean and variance (Rasmussen and Williams 2006, equation
3.77), so that every gradient is a weight a row times the gradient of ``z``. GPy differentiates most kernels, which makes it
exact; for other kernels it is computed by central differences of GPy's own predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np

from gradwire.backends.backend import Array

Weight: TypeAlias = Callable[[Array], Array]
"""Function from ``z (n,)`` to one weight a row, ``(n,)``."""

_STEP = 1e-5
"""Step of differences, in standard deviations of a training feature: truncation is 1e-10, rounding 1e-11, relative to ``z``."""

_ROWS_AT_ONCE = 4096
"""Rows of one block of differences: their covariance with 1,000 training rows takes 32 MB."""

_TRIED_ROWS = 4


class Gradient(Protocol):
    """Gradients of ``z`` with respect to rows, each times a weight."""

    def __call__(self, x: Array, weight: Weight) -> Array:
        """Weighted gradients ``weight(z)[:, None] * dz/dx``, ``(n, d)``, for rows ``x (n, d)``."""
        ...


class Analytic:
    """Gradients from the kernel's own derivatives.

    Mean and variance share one pass back through the kernel; GPy's ``predictive_gradients`` takes two, and computes the
    covariance again for each.

    Args:
        model: A GPy model, whose parameters must not change any more.
        offset: The constant ``c`` above, which is added to the variance.
    """

    def __init__(self, model: Any, offset: float) -> None:
        self._kernel = model.kern
        self._mean_function = model.mean_function
        self._offset = offset
        # Plain arrays: GPy's own arrays notify observers of every operation.
        self._inducing = np.array(model._predictive_variable)
        self._vector = np.array(model.posterior.woodbury_vector).reshape(-1)
        self._inverse = np.array(model.posterior.woodbury_inv)

    def __call__(self, x: Array, weight: Weight) -> Array:
        """As in `Gradient`."""
        covariance = self._kernel.K(x, self._inducing)
        projected = covariance @ self._inverse
        mean = covariance @ self._vector
        if self._mean_function is not None:
            mean = mean + self._mean_function.f(x)[:, 0]
        scale = np.sqrt(self._offset + self._kernel.Kdiag(x) - np.einsum("nm,nm->n", projected, covariance))
        of_mean = weight(mean / scale) / scale
        of_variance = -of_mean * mean / (2 * scale**2)
        gradient = self._kernel.gradients_X(
            of_mean[:, None] * self._vector - 2 * of_variance[:, None] * projected, x, self._inducing
        )
        gradient = gradient + of_variance[:, None] * self._kernel.gradients_X_diag(np.ones(len(x)), x)
        if self._mean_function is not None:
            gradient = gradient + self._mean_function.gradients_X(of_mean[:, None], x)
        return np.ascontiguousarray(gradient)


class Differences:
    """Gradients from central differences.

    Args:
        z: Function from rows ``(n, d)`` to ``(n,)``.
        steps: Step of each feature, ``(d,)``.
    """

    def __init__(self, z: Callable[[Array], Array], steps: Array) -> None:
        self._z = z
        self._steps = steps

    def __call__(self, x: Array, weight: Weight) -> Array:
        """As in `Gradient`."""
        n, d = x.shape
        gradient = np.empty((n, d))
        at_once = max(1, _ROWS_AT_ONCE // (2 * n))
        for begin in range(0, d, at_once):
            columns = np.arange(begin, min(begin + at_once, d))
            moved = np.repeat(x[None], 2 * len(columns), axis=0)
            moved[np.arange(len(columns)), :, columns] += self._steps[columns, None]
            moved[np.arange(len(columns)) + len(columns), :, columns] -= self._steps[columns, None]
            # The difference after rounding: steps from large numbers are rounded.
            width = moved[np.arange(len(columns)), :, columns] - moved[np.arange(len(columns)) + len(columns), :, columns]
            up, down = self._z(moved.reshape(-1, d)).reshape(2, len(columns), n)
            gradient[:, columns] = ((up - down) / width).T
        return gradient * weight(self._z(x))[:, None]


def gradient_of(model: Any, offset: float, z: Callable[[Array], Array]) -> Gradient:
    """Chooses the kernel's own derivatives if they exist and agree with its predictions, otherwise differences.

    Args:
        model: A GPy model.
        offset: Constant that is added to the variance.
        z: GPy's predictions, a function from rows ``(n, d)`` to ``(n,)``.
    """
    rows = np.array(model.X)
    spread = rows.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    differences = Differences(z, _STEP * spread)
    # Between the training rows, because kernels that are not smooth have no derivative on them.
    tried = rows[:_TRIED_ROWS] + 0.1 * spread * np.random.default_rng(0).standard_normal(rows[:_TRIED_ROWS].shape)
    try:
        analytic = Analytic(model, offset)
        derivatives = analytic(tried, np.ones_like)
    except Exception:  # kernels without derivatives raise any type
        return differences
    expected = differences(tried, np.ones_like)
    close = np.allclose(derivatives, expected, rtol=1e-4, atol=1e-5 * float(np.abs(expected).max()))
    return analytic if close else differences
