"""Support vector machines and kernel ridge regression: sums of kernels.

SVC and NuSVC score a class by its one-vs-one decisions, ``s_c = sum_j f_cj`` with ``f_cj = -f_jc`` (``sum_of_confidences``
in scikit-learn's source); with two classes ``s = (-f, f)``. Labels come from votes: with three or more classes the largest
one-vs-one sum need not be the predicted one.

Shapes: n rows, d features, k outputs, m support vectors; all float64. Nothing larger than the result or ``(n, m)`` is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.sklearn.gradients import Affine, Differentiable, Pull
from gradwire.backends.sklearn.linear import dense

_NAMES = {"linear": "linear", "rbf": "rbf", "poly": "poly", "polynomial": "poly", "sigmoid": "sigmoid"}


@dataclass(frozen=True)
class KernelSums:
    """Sums of kernels ``s_c = sum_i A_ci k(x, v_i) + b_c`` over support vectors v.

    ``k`` is libsvm's, with ``u = gamma <x, v> + coef0``: rbf ``exp(-gamma |x - v|^2)``, poly ``u^degree``, sigmoid
    ``tanh(u)``.

    Attributes:
        kernel: ``rbf``, ``poly`` or ``sigmoid``.
        gamma: Factor of the kernel's argument.
        coef0: Constant in the kernel's argument; not used by rbf.
        degree: Exponent of poly.
        support_vectors: ``(m, d)``, less ``centre``.
        centre: ``(d,)``. The rbf kernel is computed from norms, and small norms lose fewer digits to cancellation.
        squared_norms: ``(m,)``, of the support vectors.
        coefficients: ``A (k, m)``.
        intercept: ``b (k,)``.
    """

    kernel: str
    gamma: float
    coef0: float
    degree: int
    support_vectors: Array
    centre: Array
    squared_norms: Array
    coefficients: Array
    intercept: Array

    def __call__(self, x: Array) -> Array:
        """Scores or values ``(n, k)``."""
        u = self._argument(x - self.centre)
        return self._sums(self._values(u))

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`."""
        x = x - self.centre
        u = self._argument(x)
        values = self._values(u)
        slopes = self._slopes(u, values)

        def pull_one(cotangent: Array) -> Array:
            weighted = slopes * (cotangent @ self.coefficients)
            gradient: Array = weighted @ self.support_vectors
            if self.kernel == "rbf":
                gradient -= weighted.sum(axis=1)[:, None] * x
            return gradient

        def pull(cotangent: Array) -> Array:
            if cotangent.ndim == 2:
                return pull_one(cotangent)
            gradients = np.empty((*cotangent.shape[:2], x.shape[1]))
            for c in range(cotangent.shape[1]):
                gradients[:, c] = pull_one(cotangent[:, c])
            return gradients

        return self._sums(values), pull

    def _sums(self, values: Array) -> Array:
        sums: Array = values @ self.coefficients.T
        sums += self.intercept
        return sums

    def _argument(self, x: Array) -> Array:
        """Argument of the kernel's outer function, ``(n, m)``."""
        products: Array = x @ self.support_vectors.T
        if self.kernel == "rbf":
            squared = (x * x).sum(axis=1)[:, None] - 2 * products + self.squared_norms
            argument: Array = -self.gamma * np.maximum(squared, 0)
            return argument
        argument = self.gamma * products + self.coef0
        return argument

    def _values(self, u: Array) -> Array:
        values: Array = np.exp(u) if self.kernel == "rbf" else u**self.degree if self.kernel == "poly" else np.tanh(u)
        return values

    def _slopes(self, u: Array, values: Array) -> Array:
        """Slopes ``(n, m)``: the gradient of ``k(x, v)`` is the slope times ``v - x`` for rbf, times ``v`` otherwise."""
        if self.kernel == "rbf":
            outer = 2 * values
        elif self.kernel == "poly":
            outer = self.degree * u ** max(self.degree - 1, 0)
        else:
            outer = 1 - values**2
        slopes: Array = self.gamma * outer
        return slopes


def has_gradient(kernel: Any, degree: float) -> bool:
    """True for the kernels above; the owner's estimator may have a function of its own instead."""
    return isinstance(kernel, str) and kernel in _NAMES and float(degree).is_integer()


def classifier(model: Any) -> Differentiable:
    """Scores of a fitted SVC or NuSVC, one a class."""
    coefficients, intercept = _one_vs_one_sums(dense(model.dual_coef_), model.intercept_, model.n_support_)
    return _machine(model, coefficients, intercept)


def regressor(model: Any) -> Differentiable:
    """The value of a fitted SVR or NuSVR."""
    return _machine(model, dense(model.dual_coef_), np.asarray(model.intercept_, np.float64))


def ridge(model: Any) -> Differentiable:
    """The values of a fitted KernelRidge."""
    support_vectors = dense(model.X_fit_)
    gamma = 1 / support_vectors.shape[1] if model.gamma is None else float(model.gamma)
    coefficients = np.asarray(model.dual_coef_, np.float64).reshape(len(support_vectors), -1).T
    return _sums(model, gamma, support_vectors, coefficients, np.zeros(len(coefficients)))


def _machine(model: Any, coefficients: Array, intercept: Array) -> Differentiable:
    # The value computed for "scale" or "auto", which has no public name.
    return _sums(model, float(model._gamma), dense(model.support_vectors_), coefficients, intercept)


def _sums(model: Any, gamma: float, support_vectors: Array, coefficients: Array, intercept: Array) -> Differentiable:
    kernel = _NAMES[model.kernel]
    if kernel == "linear":
        return Affine(coefficients @ support_vectors, intercept)
    centre = support_vectors.mean(axis=0) if kernel == "rbf" else np.zeros(support_vectors.shape[1])
    support_vectors = support_vectors - centre
    return KernelSums(
        kernel=kernel,
        gamma=gamma,
        coef0=float(model.coef0),
        degree=int(model.degree),
        support_vectors=support_vectors,
        centre=centre,
        squared_norms=(support_vectors * support_vectors).sum(axis=1),
        coefficients=np.ascontiguousarray(coefficients),
        intercept=intercept,
    )


def _one_vs_one_sums(dual: Array, intercept: Array, support_per_class: Array) -> tuple[Array, Array]:
    """Coefficients ``(k, m)`` and intercepts ``(k,)`` of each class's sum of pairwise decisions.

    libsvm keeps, for a support vector of class c, its coefficient in the decision between c and j in row j of
    ``dual (k - 1, m)``, or j - 1 if j > c; the decision is positive for the lower of the two classes. scikit-learn turns
    the sign round where there are only two.
    """
    k = len(support_per_class)
    if k == 2:
        dual, intercept = -dual, -intercept
    own = np.repeat(np.arange(k), support_per_class)
    row = np.arange(k - 1)[:, None]
    other = row + (row >= own)
    for_own = np.where(other > own, dual, -dual)
    coefficients = np.zeros((k, len(own)))
    coefficients[other, np.arange(len(own))] = -for_own
    coefficients[own, np.arange(len(own))] = for_own.sum(axis=0)
    lower, higher = np.triu_indices(k, 1)
    return coefficients, np.bincount(lower, intercept, k) - np.bincount(higher, intercept, k)
