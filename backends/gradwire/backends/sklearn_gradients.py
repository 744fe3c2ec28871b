"""Linear and kernel classifiers as functions of their inputs, with gradients in closed form.

Each function here has one output for each of the k classes that the model was fitted on, in the order of ``classes_``. It
can be called, pulls a cotangent back (``vjp``), and gives all gradients at once (``jacobian``). Every loss is
``-sum_c t_c g_c(x)`` for targets ``t`` and such a function ``g``, so that its gradient is ``g.vjp(x, -t)``.

- Logistic regression: scores ``s = W x + b``, ``(0, w x + b)`` with two classes; outputs ``p = softmax(s)`` or ``log p``;
  the loss is cross-entropy, ``g = log p``.
- Support vector machines: outputs and ``g`` are the scores ``s``. The loss is then the negated score of the label, the
  objective that evasion descends (Biggio et al. 2014, "Security evaluation of support vector machines in adversarial
  environments", equation 1 with lambda = 0; what ART cites). A hinge would have no gradient beyond the margin. SVC and NuSVC
  score a class by its one-vs-one decisions, ``s_c = sum_j f_cj`` with ``f_cj = -f_jc`` (``sum_of_confidences`` in
  scikit-learn's source), LinearSVC by its decision; with two classes ``s = (-f, f)``. Labels come from votes: with three or
  more classes the largest one-vs-one sum need not be the predicted one.

Shapes: n rows, d features, k classes, m support vectors; all float64. Nothing larger than the result or ``(n, m)`` is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gradwire.backends.backend import Array


class Differentiable(Protocol):
    """A function of rows with one output a class."""

    def __call__(self, x: Array) -> Array:
        """Outputs ``(n, k)`` for ``x (n, d)``."""
        ...

    def vjp(self, x: Array, cotangent: Array) -> Array:
        """``sum_c cotangent_c * d output_c / dx``, ``(n, d)``, for a cotangent ``(n, k)``."""
        ...

    def jacobian(self, x: Array) -> Array:
        """``d output_c / dx``, ``(n, k, d)``; it may be a read-only view."""
        ...


@dataclass(frozen=True)
class LinearScores:
    """``s = x W^T + b`` with weights ``W (k, d)`` and intercept ``b (k,)``."""

    weights: Array
    intercept: Array

    def __call__(self, x: Array) -> Array:
        scores: Array = x @ self.weights.T + self.intercept
        return scores

    def vjp(self, x: Array, cotangent: Array) -> Array:
        gradient: Array = cotangent @ self.weights
        return gradient

    def jacobian(self, x: Array) -> Array:
        return np.broadcast_to(self.weights, (len(x), *self.weights.shape))


@dataclass(frozen=True)
class KernelScores:
    """``s_c = sum_i A_ci k(x, v_i) + b_c`` over support vectors v.

    ``k`` is libsvm's, with ``u = gamma <x, v> + coef0``: rbf ``exp(-gamma |x - v|^2)``, poly ``u^degree``, sigmoid
    ``tanh(u)``.

    Attributes:
        kernel: ``rbf``, ``poly`` or ``sigmoid``.
        support_vectors: ``(m, d)``, less ``centre``.
        centre: ``(d,)``. The rbf kernel is computed from norms, which cancel the better the nearer they are to 0.
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
        u = self._argument(x - self.centre)
        values = np.exp(u) if self.kernel == "rbf" else u**self.degree if self.kernel == "poly" else np.tanh(u)
        scores: Array = values @ self.coefficients.T + self.intercept
        return scores

    def vjp(self, x: Array, cotangent: Array) -> Array:
        x = x - self.centre
        return self._pulled(x, self._slopes(x) * (cotangent @ self.coefficients))

    def jacobian(self, x: Array) -> Array:
        x = x - self.centre
        slopes = self._slopes(x)
        gradients = np.empty((len(x), len(self.coefficients), x.shape[1]))
        for c, row in enumerate(self.coefficients):
            gradients[:, c] = self._pulled(x, slopes * row)
        return gradients

    def _argument(self, x: Array) -> Array:
        """What the kernel's outer function is applied to, ``(n, m)``."""
        products: Array = x @ self.support_vectors.T
        if self.kernel == "rbf":
            squared = (x * x).sum(axis=1)[:, None] - 2 * products + self.squared_norms
            argument: Array = -self.gamma * np.maximum(squared, 0)
            return argument
        argument = self.gamma * products + self.coef0
        return argument

    def _slopes(self, x: Array) -> Array:
        """``(n, m)``: the gradient of ``k(x, v)`` is the slope times ``v - x`` for rbf, times ``v`` for the others."""
        u = self._argument(x)
        if self.kernel == "rbf":
            outer = 2 * np.exp(u)
        elif self.kernel == "poly":
            outer = self.degree * u ** max(self.degree - 1, 0)
        else:
            outer = 1 - np.tanh(u) ** 2
        slopes: Array = self.gamma * outer
        return slopes

    def _pulled(self, x: Array, weighted: Array) -> Array:
        gradient: Array = weighted @ self.support_vectors
        if self.kernel == "rbf":
            gradient -= weighted.sum(axis=1)[:, None] * x
        return gradient


@dataclass(frozen=True)
class LogSoftmax:
    """``log p = log softmax(s)``; its gradient is ``ds_c - sum_j p_j ds_j``."""

    scores: LinearScores

    def __call__(self, x: Array) -> Array:
        return log_softmax(self.scores(x))

    def vjp(self, x: Array, cotangent: Array) -> Array:
        p = np.exp(self(x))
        return self.scores.vjp(x, cotangent - p * cotangent.sum(axis=1, keepdims=True))

    def jacobian(self, x: Array) -> Array:
        mean = self.scores.vjp(x, np.exp(self(x)))
        gradients: Array = self.scores.jacobian(x) - mean[:, None]
        return gradients


@dataclass(frozen=True)
class Softmax:
    """``p = softmax(s)``; its gradient is ``p_c (ds_c - sum_j p_j ds_j)``."""

    scores: LinearScores

    def __call__(self, x: Array) -> Array:
        probabilities: Array = np.exp(log_softmax(self.scores(x)))
        return probabilities

    def vjp(self, x: Array, cotangent: Array) -> Array:
        p = self(x)
        return self.scores.vjp(x, p * (cotangent - (p * cotangent).sum(axis=1, keepdims=True)))

    def jacobian(self, x: Array) -> Array:
        p = self(x)
        gradients: Array = self.scores.jacobian(x) - self.scores.vjp(x, p)[:, None]
        gradients *= p[:, :, None]
        return gradients


@dataclass(frozen=True)
class ClosedForm:
    """What a fitted model's gradients are gradients of.

    Attributes:
        outputs: What class gradients are taken of.
        loss_terms: ``g``: the loss of a row is ``-sum_c t_c g_c``.
        terms_of_outputs: ``g (n, k)`` from outputs ``(n, k)``.
        class_weight: ``(k,)``, what targets are multiplied by.
    """

    outputs: Differentiable
    loss_terms: Differentiable
    terms_of_outputs: Callable[[Array], Array]
    class_weight: Array

    def loss(self, terms: Array, targets: Array) -> Array:
        """``(n,)`` for loss terms and targets, both ``(n, k)``."""
        loss: Array = -(self.class_weight * targets * terms).sum(axis=1)
        return loss

    def loss_gradient(self, x: Array, targets: Array) -> Array:
        """``(n, d)``: each row's gradient of its own loss."""
        return self.loss_terms.vjp(x, -self.class_weight * targets)


def logistic(model: Any) -> ClosedForm:
    """The closed form of a fitted LogisticRegression, binary or multinomial, with outputs ``p``.

    A ``class_weight`` dictionary weighs a row's loss by its label, as in training. Of ``"balanced"`` a fitted model keeps no
    weights; they are 1 then, as in ART.
    """
    scores = _multinomial(model)
    return ClosedForm(Softmax(scores), LogSoftmax(scores), _log, _class_weight(model))


def log_logistic(model: Any) -> ClosedForm:
    """As `logistic`, with outputs ``log p``."""
    log_p = LogSoftmax(_multinomial(model))
    return ClosedForm(log_p, log_p, log_softmax, _class_weight(model))


def linear_svm(model: Any) -> ClosedForm:
    """The closed form of a fitted LinearSVC: one score a class, ``(-f, f)`` with two."""
    weights, intercept = _linear(model)
    if len(weights) == 1:
        weights, intercept = np.concatenate([-weights, weights]), np.concatenate([-intercept, intercept])
    return _of_scores(LinearScores(weights, intercept))


def kernel_svm(model: Any) -> ClosedForm:
    """The closed form of a fitted SVC or NuSVC with one of libsvm's own kernels."""
    support_vectors = _dense(model.support_vectors_)
    coefficients, intercept = _one_vs_one_sums(_dense(model.dual_coef_), model.intercept_, model.n_support_)
    if model.kernel == "linear":
        return _of_scores(LinearScores(coefficients @ support_vectors, intercept))
    centre = support_vectors.mean(axis=0) if model.kernel == "rbf" else np.zeros(support_vectors.shape[1])
    support_vectors = support_vectors - centre
    return _of_scores(
        KernelScores(
            kernel=model.kernel,
            gamma=float(model._gamma),  # what "scale" and "auto" came to; there is no public name for it
            coef0=float(model.coef0),
            degree=int(model.degree),
            support_vectors=support_vectors,
            centre=centre,
            squared_norms=(support_vectors * support_vectors).sum(axis=1),
            coefficients=coefficients,
            intercept=intercept,
        )
    )


def log_softmax(scores: Array) -> Array:
    """``log softmax`` along the classes, finite for all finite scores ``(n, k)``."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def _multinomial(model: Any) -> LinearScores:
    """Scores of a LogisticRegression, ``(0, w x + b)`` with two classes."""
    weights, intercept = _linear(model)
    if len(weights) == 1:
        weights, intercept = np.concatenate([0 * weights, weights]), np.concatenate([[0.0], intercept])
    return LinearScores(weights, intercept)


def _class_weight(model: Any) -> Array:
    given = model.class_weight if isinstance(model.class_weight, Mapping) else {}
    return np.array([given.get(label, 1.0) for label in model.classes_.tolist()], np.float64)


def _of_scores(scores: LinearScores | KernelScores) -> ClosedForm:
    return ClosedForm(scores, scores, np.asarray, np.ones(len(scores.intercept)))


def _log(p: Array) -> Array:
    # A probability of 0 has underflowed; its logarithm must not be infinite, as 0 times it would be NaN.
    logarithm: Array = np.log(np.maximum(p, np.finfo(np.float64).tiny))
    return logarithm


def _linear(model: Any) -> tuple[Array, Array]:
    weights = _dense(model.coef_)
    return weights, np.broadcast_to(np.asarray(model.intercept_, np.float64), (len(weights),))


def _dense(matrix: Any) -> Array:
    """scikit-learn keeps sparse what it was fitted on sparse, or has been sparsified."""
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, np.float64)


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
