"""Differentiable functions of rows with their vector-Jacobian products, and losses of their values.

A fitted model is written as a `chain` of such functions, scalers first, and its gradients follow from the chain rule.
Every function here and in the files beside it (`kernels`, `densities`, `perceptrons`, `scalers`) takes all rows together
and computes each row independently.

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
"""Function from one cotangent a row, ``(n, k)``, to the gradient of ``sum_c cotangent_c * output_c``, ``(n, d)``.

It also takes several cotangents a row, ``(n, c, k)``, and then returns ``(n, c, d)``. It does not write into its argument.
"""


class Differentiable(Protocol):
    """A function of rows."""

    def __call__(self, x: Array) -> Array:
        """Outputs ``(n, k)`` for ``x (n, d)``."""
        ...

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """Outputs ``(n, k)``, and the function from their cotangents to gradients. Raises InvalidValue if none exists."""
        ...


def jacobian(outputs: Array, pull: Pull) -> Array:
    """Jacobian ``d output_c / dx``, ``(n, k, d)``."""
    n, k = outputs.shape
    # A copy instead of a broadcast: products walk rows of k numbers slowly if the axis before them has stride 0.
    return pull(np.tile(np.eye(k), (n, 1, 1)))


def beside(values: Array, cotangent: Array) -> Array:
    """Values ``(n, k)``, or ``(n, 1, k)`` for a cotangent with several vectors a row."""
    return values if cotangent.ndim == 2 else values[:, None]


def inner(values: Array, cotangent: Array) -> Array:
    """Inner product ``sum_c values_c * cotangent_c``, with the last axis kept, for one cotangent a row or several.

    Computed as a product of matrices: for 128 rows with 10 cotangents of 10 numbers, a sum along the last axis takes 4 times
    as long.
    """
    if cotangent.ndim == 2:
        product: Array = np.einsum("nk,nk->n", values, cotangent)[:, None]
        return product
    product = cotangent @ values[:, :, None]
    return product


def times(cotangent: Array, matrix: Array) -> Array:
    """Product ``cotangent @ matrix`` for one cotangent a row or several, in one product of matrices."""
    if cotangent.ndim == 2:
        product: Array = cotangent @ matrix
        return product
    product = cotangent.reshape(-1, cotangent.shape[2]) @ matrix
    return product.reshape(*cotangent.shape[:2], -1)


@dataclass(frozen=True)
class Chain:
    """Composition of at least one function, the first of them applied first. Made by `chain`."""

    functions: tuple[Differentiable, ...]

    def __call__(self, x: Array) -> Array:
        """Outputs of the last function."""
        for function in self.functions:
            x = function(x)
        return x

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`."""
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
    """Composes functions, the first of them applied first."""
    flat: list[Differentiable] = []
    for function in functions:
        flat += function.functions if isinstance(function, Chain) else (function,)
    return flat[0] if len(flat) == 1 else Chain(tuple(flat))


@dataclass(frozen=True)
class Affine:
    """Affine map ``x W^T + b`` with weights ``W (k, d)`` and intercept ``b (k,)``."""

    weights: Array
    intercept: Array

    def __call__(self, x: Array) -> Array:
        """Outputs ``(n, k)``."""
        scores: Array = x @ self.weights.T
        scores += self.intercept
        return scores

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`."""
        return self(x), self._pull

    def _pull(self, cotangent: Array) -> Array:
        return times(cotangent, self.weights)


@dataclass(frozen=True)
class Elementwise:
    """One function applied to every number.

    Attributes:
        function: Function from inputs to outputs.
        slope: Its derivative, as a function of the outputs.
    """

    function: Callable[[Array], Array]
    slope: Callable[[Array], Array]

    def __call__(self, x: Array) -> Array:
        """Outputs in the shape of ``x``."""
        return self.function(x)

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`."""
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
    """Logarithm of the softmax, ``log p = log softmax(s)``; ``d log p_c = ds_c - sum_j p_j ds_j``."""

    def __call__(self, x: Array) -> Array:
        """Log probabilities ``(n, k)``."""
        return log_softmax(x)

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`."""
        log_p = log_softmax(x)

        def pull(cotangent: Array) -> Array:
            total = inner(np.ones_like(log_p), cotangent)
            pulled: Array = cotangent - beside(np.exp(log_p), cotangent) * total
            return pulled

        return log_p, pull


@dataclass(frozen=True)
class Softmax:
    """Softmax ``p = softmax(s)``; ``dp_c = p_c (ds_c - sum_j p_j ds_j)``."""

    def __call__(self, x: Array) -> Array:
        """Probabilities ``(n, k)``."""
        probabilities: Array = np.exp(log_softmax(x))
        return probabilities

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`."""
        p = self(x)

        def pull(cotangent: Array) -> Array:
            pulled: Array = cotangent - inner(p, cotangent)
            pulled *= beside(p, cotangent)
            return pulled

        return p, pull


def log_softmax(scores: Array) -> Array:
    """Logarithm of the softmax along the classes, finite for all finite scores ``(n, k)``."""
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
    """Negated terms of the label, ``-sum_c w_c t_c g_c`` with class weights ``w (k,)``."""

    class_weight: Array

    def __call__(self, terms: Array, targets: Array) -> Array:
        """The loss of each row, ``(n,)``."""
        # The logarithm of a probability of 0 is minus infinity, and a target of 0 times that would be NaN.
        finite = np.maximum(terms, -np.finfo(np.float64).max)
        loss: Array = -(self.class_weight * targets * finite).sum(axis=1)
        return loss

    def cotangent(self, terms: Array, targets: Array) -> Array:
        """Gradient of the loss with respect to the terms, ``(n, k)``."""
        return -self.class_weight * targets


@dataclass(frozen=True)
class SquaredError:
    """Mean squared error, ``sum_c (g_c - t_c)^2 / k``."""

    def __call__(self, terms: Array, targets: Array) -> Array:
        """The loss of each row, ``(n,)``."""
        loss: Array = ((terms - targets) ** 2).mean(axis=1)
        return loss

    def cotangent(self, terms: Array, targets: Array) -> Array:
        """Gradient of the loss with respect to the terms, ``(n, k)``."""
        gradient: Array = (2 / terms.shape[1]) * (terms - targets)
        return gradient


@dataclass(frozen=True)
class ClosedForm:
    """Differentiable outputs and loss of a fitted model.

    Attributes:
        outputs: The function of class gradients; one output a fitted class, or one a target.
        terms: The function whose values the loss takes.
        terms_of_outputs: Function from outputs ``(n, k)`` to terms ``(n, k)``.
        loss: Loss of the terms of each row.
        layers: Functions of the layers' outputs, by name, in their order; the last of them is ``outputs``.
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
                raise InvalidLayer(f"the model has no layer {layer!r}; its layers are {', '.join(names)}")
            return self.layers[layer]
        if not -len(names) <= layer < len(names):
            raise InvalidLayer(f"layer index {layer} is out of range; the model has {len(names)} layers: {', '.join(names)}")
        return self.layers[names[layer]]


def of_probabilities(scores: Differentiable, class_weight: Array) -> ClosedForm:
    """Closed form with outputs ``softmax(scores)`` and cross-entropy as the loss."""
    return ClosedForm(chain(scores, Softmax()), chain(scores, LogSoftmax()), _log, NegatedTerms(class_weight))


def of_log_probabilities(scores: Differentiable, class_weight: Array) -> ClosedForm:
    """Closed form with outputs ``log softmax(scores)`` and cross-entropy as the loss."""
    log_p = chain(scores, LogSoftmax())
    return ClosedForm(log_p, log_p, log_softmax, NegatedTerms(class_weight))


def of_scores(scores: Differentiable, nb_classes: int) -> ClosedForm:
    """Closed form with the scores as outputs and the negated score of the label as the loss."""
    return ClosedForm(scores, scores, np.asarray, NegatedTerms(np.ones(nb_classes)))


def of_values(values: Differentiable) -> ClosedForm:
    """Closed form with numbers as outputs and the squared error as the loss."""
    return ClosedForm(values, values, np.asarray, SquaredError())


def _log(p: Array) -> Array:
    # A probability of 0 has underflowed; its logarithm must not be infinite, as 0 times it would be NaN.
    logarithm: Array = np.log(np.maximum(p, np.finfo(np.float64).tiny))
    return logarithm
