"""Transformers of a pipeline: scalers, projections, polynomials and selections, with their gradients.

Transformers are looked up by exact type: an owner's subclass may transform otherwise.

Shapes: n rows, d inputs, k outputs; all float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectKBest, SelectPercentile, VarianceThreshold
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, PolynomialFeatures, RobustScaler, StandardScaler

from gradwire.backends.backend import Array
from gradwire.backends.errors import InvalidValue
from gradwire.backends.sklearn.gradients import Affine, Differentiable, Pull, beside, chain, inner


def is_differentiable(transformer: Any) -> bool:
    """True if `function` has an entry for the type of this transformer."""
    return type(transformer) in _FUNCTIONS


def function(transformer: Any) -> Differentiable:
    """A fitted transformer as a differentiable function of rows."""
    return _FUNCTIONS[type(transformer)](transformer)


@dataclass(frozen=True)
class Scale:
    """Scaling ``(x - centre) * factor``, both ``(d,)``."""

    centre: Array
    factor: Array

    def __call__(self, x: Array) -> Array:
        """Scaled rows ``(n, d)``."""
        scaled: Array = x - self.centre
        scaled *= self.factor
        return scaled

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`."""
        return self(x), self._pull

    def _pull(self, cotangent: Array) -> Array:
        return cotangent * self.factor


@dataclass(frozen=True)
class Clip:
    """Clipping to ``low`` and ``high``; the gradient is 0 outside these bounds, and 1 on them."""

    low: float
    high: float

    def __call__(self, x: Array) -> Array:
        """Clipped rows ``(n, d)``."""
        clipped: Array = np.clip(x, self.low, self.high)
        return clipped

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`."""
        clipped = self(x)

        def pull(cotangent: Array) -> Array:
            return cotangent * beside(clipped == x, cotangent)

        return clipped, pull


@dataclass(frozen=True)
class Normalise:
    """Division of each row by its norm, ``y = x / |x|``, with the norm ``l1``, ``l2`` or ``max``.

    With the norm's own gradient ``g``, the cotangent ``c`` becomes ``(c - g <c, y>) / |x|``. If several numbers of a row
    share its largest size, the first of them is the maximum.
    """

    norm: str

    def __call__(self, x: Array) -> Array:
        """Normalised rows ``(n, d)``."""
        norms = self._norms(x)
        # As in scikit-learn, a row of zeros stays a row of zeros.
        normalised: Array = x / np.where(norms < 10 * np.finfo(np.float64).eps, 1.0, norms)
        return normalised

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`. Raises InvalidValue for a row of zeros."""
        norms = self._norms(x)
        if (norms < 10 * np.finfo(np.float64).eps).any():
            raise InvalidValue(f"row {norms.argmin()} is all zeros before its Normalizer, which has no gradient at 0")
        y = x / norms

        def pull(cotangent: Array) -> Array:
            pulled: Array = cotangent - beside(self._gradient(x, y), cotangent) * inner(y, cotangent)
            pulled /= beside(norms, cotangent)
            return pulled

        return y, pull

    def _norms(self, x: Array) -> Array:
        """Norms of the rows, ``(n, 1)``."""
        if self.norm == "l2":
            norms: Array = np.sqrt((x * x).sum(axis=1, keepdims=True))
        else:
            norms = (np.sum if self.norm == "l1" else np.max)(np.abs(x), axis=1, keepdims=True)
        return norms

    def _gradient(self, x: Array, y: Array) -> Array:
        if self.norm == "l2":
            return y
        signs: Array = np.sign(x)
        if self.norm == "max":
            largest = np.abs(x).argmax(axis=1)[:, None]
            signs = np.where(np.arange(x.shape[1]) == largest, signs, 0)
        return signs


@dataclass(frozen=True)
class Select:
    """Selection of ``columns (k,)`` of ``size`` d."""

    columns: Array
    size: int

    def __call__(self, x: Array) -> Array:
        """Selected columns ``(n, k)``."""
        chosen: Array = x[:, self.columns]
        return chosen

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`."""
        return self(x), self._pull

    def _pull(self, cotangent: Array) -> Array:
        pulled = np.zeros((*cotangent.shape[:-1], self.size))
        pulled[..., self.columns] = cotangent
        return pulled


@dataclass(frozen=True)
class Monomials:
    """Monomials ``y_j = prod_t x_{f(j, t)}``; ``f(j, t) = d`` stands for a factor of 1.

    Attributes:
        factors: ``f (k, degree)``.
        counts: For each t, ``(k, d)``: row j has a 1 in the column of its factor t.
    """

    factors: Array
    counts: tuple[Any, ...]

    def __call__(self, x: Array) -> Array:
        """Products ``(n, k)``."""
        product: Array = self._factors(x).prod(axis=2)
        return product

    def vjp(self, x: Array) -> tuple[Array, Pull]:
        """As in `Differentiable`."""
        factors = self._factors(x)

        def pull(cotangent: Array) -> Array:
            pulled = np.zeros((*cotangent.shape[:-1], x.shape[1]))
            for t, counts in enumerate(self.counts):
                # The product divided by one factor would fail for factors of 0.
                others = np.delete(factors, t, axis=2).prod(axis=2)
                weighted = (cotangent * beside(others, cotangent)).reshape(-1, len(self.factors))
                pulled += (weighted @ counts).reshape(pulled.shape)
            return pulled

        product: Array = factors.prod(axis=2)
        return product, pull

    def _factors(self, x: Array) -> Array:
        """Factors of each monomial, ``(n, k, degree)``."""
        factors: Array = np.concatenate([x, np.ones((len(x), 1))], axis=1)[:, self.factors]
        return factors


def _scale(centre: Any, factor: Any, size: int) -> Scale:
    def column(values: Any) -> Array:
        return np.array(np.broadcast_to(np.asarray(values, np.float64), (size,)))

    return Scale(column(centre), column(factor))


def _standard(scaler: Any) -> Differentiable:
    mean = scaler.mean_ if scaler.with_mean else 0.0
    return _scale(mean, 1 / scaler.scale_ if scaler.with_std else 1.0, scaler.n_features_in_)


def _min_max(scaler: Any) -> Differentiable:
    # scikit-learn computes x * scale + min, which loses digits to cancellation for data far from 0.
    scale = _scale(-scaler.min_ / scaler.scale_, scaler.scale_, scaler.n_features_in_)
    return chain(scale, Clip(*scaler.feature_range)) if scaler.clip else scale


def _max_abs(scaler: Any) -> Differentiable:
    scale = _scale(0.0, 1 / scaler.scale_, scaler.n_features_in_)
    # scikit-learn has had the option since 1.9.
    return chain(scale, Clip(-1.0, 1.0)) if getattr(scaler, "clip", False) else scale


def _robust(scaler: Any) -> Differentiable:
    centre = scaler.center_ if scaler.with_centering else 0.0
    return _scale(centre, 1 / scaler.scale_ if scaler.with_scaling else 1.0, scaler.n_features_in_)


def _normalizer(normalizer: Any) -> Differentiable:
    return Normalise(normalizer.norm)


def _principal(pca: Any) -> Differentiable:
    weights = np.asarray(pca.components_, np.float64)
    if pca.whiten:
        deviations = np.sqrt(np.asarray(pca.explained_variance_))
        # scikit-learn's own floor, for data of lower rank than there are components.
        weights = weights / np.maximum(deviations, np.finfo(deviations.dtype).eps)[:, None]
    return Affine(weights, -weights @ np.asarray(pca.mean_, np.float64))


def _singular(svd: Any) -> Differentiable:
    weights = np.asarray(svd.components_, np.float64)
    return Affine(weights, np.zeros(len(weights)))


def _polynomial(features: Any) -> Differentiable:
    powers = features.powers_
    k, d = powers.shape
    factors = np.full((k, max(int(powers.sum(axis=1).max()), 1)), d)
    for j, row in enumerate(powers):
        own = np.repeat(np.arange(d), row)
        factors[j, : len(own)] = own
    counts = []
    for column in factors.T:
        rows = np.flatnonzero(column < d)
        counts.append(csr_matrix((np.ones(len(rows)), (rows, column[rows])), shape=(k, d)))
    return Monomials(factors, tuple(counts))


def _selection(selector: Any) -> Differentiable:
    return Select(selector.get_support(indices=True), selector.n_features_in_)


_FUNCTIONS: dict[type, Callable[[Any], Differentiable]] = {
    StandardScaler: _standard,
    MinMaxScaler: _min_max,
    MaxAbsScaler: _max_abs,
    RobustScaler: _robust,
    Normalizer: _normalizer,
    PCA: _principal,
    IncrementalPCA: _principal,
    TruncatedSVD: _singular,
    PolynomialFeatures: _polynomial,
    VarianceThreshold: _selection,
    SelectKBest: _selection,
    SelectPercentile: _selection,
}
