"""Linear models: scores and values of the form ``x W^T + b``.

Shapes: d features, k classes or targets; all float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.sklearn.gradients import EXP, LOG_LOGISTIC, Affine, Differentiable, chain


def dense(matrix: Any) -> Array:
    """Dense float64 copy of a matrix, which scikit-learn keeps sparse after a fit on sparse rows or ``sparsify``."""
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, np.float64)


def multinomial(model: Any) -> Differentiable:
    """Scores whose softmax are the probabilities; ``(0, f)`` for the decision ``f`` between two classes."""
    weights, intercept = _coefficients(model)
    if len(weights) == 1:
        weights, intercept = np.concatenate([0 * weights, weights]), np.concatenate([[0.0], intercept])
    return Affine(weights, intercept)


def one_vs_rest(model: Any) -> Differentiable:
    """As `multinomial`, for probabilities ``sigmoid(f_c) / sum_j sigmoid(f_j)`` of three or more classes."""
    if len(model.classes_) == 2:
        return multinomial(model)
    return chain(Affine(*_coefficients(model)), LOG_LOGISTIC)


def margins(model: Any) -> Differentiable:
    """One decision a class, ``(-f, f)`` with two."""
    weights, intercept = _coefficients(model)
    if len(weights) == 1:
        weights, intercept = np.concatenate([-weights, weights]), np.concatenate([-intercept, intercept])
    return Affine(weights, intercept)


def values(model: Any) -> Differentiable:
    """The values of a linear regressor."""
    return Affine(*_coefficients(model))


def exponentials(model: Any) -> Differentiable:
    """The values of a generalised linear model with a logarithmic link."""
    return chain(values(model), EXP)


def least_squares(model: Any) -> Differentiable:
    """The values of a partial least squares model, which centres its inputs first."""
    weights, intercept = _coefficients(model)
    return Affine(weights, intercept - weights @ np.asarray(model._x_mean, np.float64))


def counts(model: Any) -> Differentiable:
    """Joint log probabilities of a MultinomialNB."""
    return Affine(np.asarray(model.feature_log_prob_, np.float64), np.asarray(model.class_log_prior_, np.float64))


def complements(model: Any) -> Differentiable:
    """Scores of a ComplementNB, which uses priors only if it has a single class."""
    weights = np.asarray(model.feature_log_prob_, np.float64)
    return Affine(weights, np.zeros(len(weights)))


def bits(model: Any) -> Differentiable:
    """Joint log probabilities of a BernoulliNB that does not binarise its inputs."""
    log_p = np.asarray(model.feature_log_prob_, np.float64)
    log_not_p = np.log(1 - np.exp(log_p))
    return Affine(log_p - log_not_p, np.asarray(model.class_log_prior_, np.float64) + log_not_p.sum(axis=1))


def _coefficients(model: Any) -> tuple[Array, Array]:
    weights = np.atleast_2d(dense(model.coef_))
    return weights, np.array(np.broadcast_to(np.asarray(model.intercept_, np.float64), (len(weights),)))
