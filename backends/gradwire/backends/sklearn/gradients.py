"""Functions of rows that know how to pull gradients back, and the losses of their values.

A fitted model is written as a `chain` of such functions, scalers first, and its gradients follow from the chain rule.
Every function here and in the files beside it (`sklearn_kernels`, `sklearn_densities`, `sklearn_networks`,
`sklearn_scalers`) takes all rows at once and computes each row by itself.

Losses are of *terms*, which are again such a function ``g`` of the rows:

- Classifiers whose probabilities are ``softmax(s)`` of scores ``s`` have cross-entropy, ``-sum_c t_c log p_c``.
- Classifiers that only score have the negated score of the label, ``-sum_c t_c s_c``, the objective that evasion descends
  (Biggio et al. 2014, "Security evaluation of support vector machines in adversarial environments", equation 1 with
  lambda = 0; what ART cites). A hinge would have no gradient beyond the margin.
- Regressors have the squared error, averaged over their outputs.

Shapes: n rows, d inputs, k outputs; all float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from scipy.special import expit

from gradwire.backends.backend import Array
from gradwire.backends.errors import InvalidLayer

Pull: TypeAlias = Callable[[Array], Array]
"""From one cotangent a row, ``(n, k)``, to the gradient of ``sum_c cotangent_c * output_c``, ``(n, d)``.

It also takes several cotangents a row, ``(n, c, k)``, and then gives ``(n, c, d)``. It writes into neither.
"""


class Differentiable(Protocol):
    """A function of rows."""

    def __call__(self, x: Array) -> Array:
        """Outputs ``(n, k)`` for ``x (n, d)``."""
        ...

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """Outputs ``(n, k)``, and what pulls their cotangents back to ``x``. Raises InvalidValue where there is no gradient."""
        ...


def jacobian(outputs: Array, pull: Pull) -> Array:
    """``d output_c / dx``, ``(n, k, d)``."""
    n, k = outputs.shape
    # In full, not broadcast: rows of k numbers are slow to walk where the axis before them has no length in memory.
    return pull(np.tile(np.eye(k), (n, 1, 1)))


def beside(values: Array, cotangent: Array) -> Array:
    """Values ``(n, k)`` with an axis for several cotangents a row, if there are several."""
    return values if cotangent.ndim == 2 else values[:, None]


def inner(values: Array, cotangent: Array) -> Array:
    """``sum_c values_c * cotangent_c``, with an axis of size 1 in its place: for values ``(n, k)`` and one cotangent or several.

    As products of matrices: of 128 rows with 10 cotangents of 10 numbers, a sum along the last axis takes 4 times as long.
    """
    if cotangent.ndim == 2:
        product: Array = np.einsum("nk,nk->n", values, cotangent)[:, None]
        return product
    product = cotangent @ values[:, :, None]
    return product


def times(cotangent: Array, matrix: Array) -> Array:
    """``cotangent @ matrix`` for one cotangent a row or several, in one product of matrices."""
    if cotangent.ndim == 2:
        product: Array = cotangent @ matrix
        return product
    product = cotangent.reshape(-1, cotangent.shape[2]) @ matrix
    return product.reshape(*cotangent.shape[:2], -1)


@dataclass(frozen=True)
class Chain:
    """One function after the other; at least one. Made by `chain`."""

    functions: tuple[Differentiable, ...]

    def __call__(self, x: Array) -> Array:
        for function in self.functions:
            x = function(x)
        return x

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        pulls = []
        for function in self.functions:
            x, pull = function.vjp(x)
            pulls.append(pull)

        def back(cotangent: Array) -> Array:
            for pull in reversed(pulls):
                cotangent = pull(cotangent)
            return cotangent

        return x, back


def chain(*functions: Differentiable) -> Differentiable:
    """The functions one after the other."""
    flat: list[Differentiable] = []
    for function in functions:
        flat += function.functions if isinstance(function, Chain) else (function,)
    return flat[0] if len(flat) == 1 else Chain(tuple(flat))


@dataclass(frozen=True)
class Affine:
    """``x W^T + b`` with weights ``W (k, d)`` and intercept ``b (k,)``."""

    weights: Array
    intercept: Array

    def __call__(self, x: Array) -> Array:
        scores: Array = x @ self.weights.T
        scores += self.intercept
        return scores

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        return self(x), self._pull

    def _pull(self, cotangent: Array) -> Array:
        return times(cotangent, self.weights)


@dataclass(frozen=True)
class Elementwise:
    """The same function of every number.

    Attributes:
        function: From inputs to outputs.
        slope: From outputs to the function's slope there.
    """

    function: Callable[[Array], Array]
    slope: Callable[[Array], Array]

    def __call__(self, x: Array) -> Array:
        return self.function(x)

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        outputs = self.function(x)

        def pull(cotangent: Array) -> Array:
            return cotangent * beside(self.slope(outputs), cotangent)

        return outputs, pull


EXP = Elementwise(np.exp, lambda y: y)
LOGISTIC = Elementwise(expit, lambda y: y * (1 - y))
LOG_LOGISTIC = Elementwise(lambda x: -np.logaddexp(0, -x), lambda y: -np.expm1(y))
TANH = Elementwise(np.tanh, lambda y: 1 - y * y)
RELU = Elementwise(lambda x: np.maximum(x, 0), lambda y: y > 0)


@dataclass(frozen=True)
class LogSoftmax:
    """``log p = log softmax(s)``; ``d log p_c = ds_c - sum_j p_j ds_j``."""

    def __call__(self, x: Array) -> Array:
        return log_softmax(x)

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        log_p = log_softmax(x)

        def pull(cotangent: Array) -> Array:
            total = inner(np.ones_like(log_p), cotangent)
            pulled: Array = cotangent - beside(np.exp(log_p), cotangent) * total
            return pulled

        return log_p, pull


@dataclass(frozen=True)
class Softmax:
    """``p = softmax(s)``; ``dp_c = p_c (ds_c - sum_j p_j ds_j)``."""

    def __call__(self, x: Array) -> Array:
        probabilities: Array = np.exp(log_softmax(x))
        return probabilities

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        p = self(x)

        def pull(cotangent: Array) -> Array:
            pulled: Array = cotangent - inner(p, cotangent)
            pulled *= beside(p, cotangent)
            return pulled

        return p, pull


def log_softmax(scores: Array) -> Array:
    """``log softmax`` along the classes, finite for all finite scores ``(n, k)``."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


class Loss(Protocol):
    """A loss of the terms of a row."""

    def __call__(self, terms: Array, targets: Array) -> Array:
        """The loss of each row, ``(n,)``, for terms and targets ``(n, k)``."""
        ...

    def cotangent(self, terms: Array, targets: Array) -> Array:
        """Its gradient with respect to the terms, ``(n, k)``."""
        ...


@dataclass(frozen=True)
class NegatedTerms:
    """``-sum_c w_c t_c g_c`` with class weights ``w (k,)``."""

    class_weight: Array

    def __call__(self, terms: Array, targets: Array) -> Array:
        # What has no probability at all is minus infinity, and a target of 0 times that would be NaN.
        finite = np.maximum(terms, -np.finfo(np.float64).max)
        loss: Array = -(self.class_weight * targets * finite).sum(axis=1)
        return loss

    def cotangent(self, terms: Array, targets: Array) -> Array:
        return -self.class_weight * targets


@dataclass(frozen=True)
class SquaredError:
    """``sum_c (g_c - t_c)^2 / k``."""

    def __call__(self, terms: Array, targets: Array) -> Array:
        loss: Array = ((terms - targets) ** 2).mean(axis=1)
        return loss

    def cotangent(self, terms: Array, targets: Array) -> Array:
        gradient: Array = (2 / terms.shape[1]) * (terms - targets)
        return gradient


@dataclass(frozen=True)
class ClosedForm:
    """What a fitted model's gradients are gradients of.

    Attributes:
        outputs: What class gradients are taken of; one output a fitted class, or one a target.
        terms: What the loss is of.
        terms_of_outputs: Terms ``(n, k)`` from outputs ``(n, k)``.
        loss: Of the terms of each row.
        layers: What layers put out, by name, in their order; the last of them is ``outputs``.
    """

    outputs: Differentiable
    terms: Differentiable
    terms_of_outputs: Callable[[Array], Array]
    loss: Loss
    layers: Mapping[str, Differentiable] = field(default_factory=dict)

    def layer(self, layer: str | int) -> Differentiable:
        """A layer by its name or its index, negative ones from the end. Raises InvalidLayer."""
        names = list(self.layers)
        if not names:
            raise InvalidLayer(f"layer {layer!r}: this scikit-learn model has no layers; leave it out for the outputs")
        if isinstance(layer, str):
            if layer not in self.layers:
                raise InvalidLayer(f"there is no layer {layer!r}; there are {', '.join(names)}")
            return self.layers[layer]
        if not -len(names) <= layer < len(names):
            raise InvalidLayer(f"layer index {layer} is out of range; there are {len(names)} layers: {', '.join(names)}")
        return self.layers[names[layer]]


def of_probabilities(scores: Differentiable, class_weight: Array) -> ClosedForm:
    """Outputs ``softmax(scores)``; the loss is cross-entropy."""
    return ClosedForm(chain(scores, Softmax()), chain(scores, LogSoftmax()), _log, NegatedTerms(class_weight))


def of_log_probabilities(scores: Differentiable, class_weight: Array) -> ClosedForm:
    """Outputs ``log softmax(scores)``; the loss is cross-entropy."""
    log_p = chain(scores, LogSoftmax())
    return ClosedForm(log_p, log_p, log_softmax, NegatedTerms(class_weight))


def of_scores(scores: Differentiable, nb_classes: int) -> ClosedForm:
    """Outputs are the scores; the loss is the negated score of the label."""
    return ClosedForm(scores, scores, np.asarray, NegatedTerms(np.ones(nb_classes)))


def of_values(values: Differentiable) -> ClosedForm:
    """Outputs are numbers; the loss is the squared error."""
    return ClosedForm(values, values, np.asarray, SquaredError())


def _log(p: Array) -> Array:
    # A probability of 0 has underflowed; its logarithm must not be infinite, as 0 times it would be NaN.
    logarithm: Array = np.log(np.maximum(p, np.finfo(np.float64).tiny))
    return logarithm
