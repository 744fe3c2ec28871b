"""Classifiers by normal densities: scores are ``log P(c) + log P(x | c)``, and softmax gives the probabilities.

Shapes: n rows, d features, k classes; all float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.sklearn.gradients import Differentiable, Pull, beside, times


@dataclass(frozen=True)
class DiagonalNormals:
    """``s_c = a_c - sum_i (x_i - m_ci)^2 q_ci / 2``.

    Attributes:
        means: ``m (k, d)``.
        precisions: ``q (k, d)``.
        constants: ``a (k,)``.
    """

    means: Array
    precisions: Array
    constants: Array

    def __call__(self, x: Array) -> Array:
        """Scores ``(n, k)``."""
        # Class by class: expanded into products of matrices, squares would cancel for variances close to 0.
        scores = np.empty((len(x), len(self.means)))
        for c, (mean, precision) in enumerate(zip(self.means, self.precisions, strict=True)):
            away = x - mean
            away *= away
            scores[:, c] = away @ precision
        scores *= -0.5
        scores += self.constants
        return scores

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`."""

        def pull(cotangent: Array) -> Array:
            gradient = times(cotangent, self.precisions * self.means)
            gradient -= beside(x, cotangent) * times(cotangent, self.precisions)
            return gradient

        return self(x), pull


@dataclass(frozen=True)
class Normals:
    """``s_c = a_c - |(x - m_c) R_c|^2 / 2``.

    Attributes:
        means: ``m (k, d)``.
        roots: For each class ``R_c (d, r)`` of rank r.
        constants: ``a (k,)``.
    """

    means: Array
    roots: tuple[Array, ...]
    constants: Array

    def __call__(self, x: Array) -> Array:
        """Scores ``(n, k)``."""
        return self._scores(self._whitened(x))

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`."""
        whitened = self._whitened(x)

        def pull(cotangent: Array) -> Array:
            gradient = np.zeros((*cotangent.shape[:-1], x.shape[1]))
            for c, (z, root) in enumerate(zip(whitened, self.roots, strict=True)):
                gradient -= times(cotangent[..., c, None] * beside(z, cotangent), root.T)
            return gradient

        return self._scores(whitened), pull

    def _whitened(self, x: Array) -> list[Array]:
        return [(x - mean) @ root for mean, root in zip(self.means, self.roots, strict=True)]

    def _scores(self, whitened: list[Array]) -> Array:
        scores: Array = self.constants - 0.5 * np.stack([(z * z).sum(axis=1) for z in whitened], axis=1)
        return scores


def naive_bayes(model: Any) -> Differentiable:
    """Joint log probabilities of a fitted GaussianNB."""
    variances = np.asarray(model.var_, np.float64)
    with np.errstate(divide="ignore"):  # an owner's prior of 0
        log_priors = np.log(np.asarray(model.class_prior_, np.float64))
    constants = log_priors - 0.5 * np.log(2 * np.pi * variances).sum(axis=1)
    return DiagonalNormals(np.asarray(model.theta_, np.float64), 1 / variances, constants)


def quadratic_discriminants(model: Any) -> Differentiable:
    """Joint log probabilities of a fitted QuadraticDiscriminantAnalysis, up to a constant."""
    roots = tuple(np.asarray(r, np.float64) / np.sqrt(s) for r, s in zip(model.rotations_, model.scalings_, strict=True))
    with np.errstate(divide="ignore"):
        log_priors = np.log(np.asarray(model.priors_, np.float64))
    constants = log_priors - 0.5 * np.array([np.log(s).sum() for s in model.scalings_])
    return Normals(np.asarray(model.means_, np.float64), roots, constants)
