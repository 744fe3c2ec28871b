"""Central differences along directions, to check gradients in few calls and in the model's own precision.

Moved rows are rounded to the model's dtype, and a gradient's prediction is taken along the move that was actually sent, so
that only the model's arithmetic is uncertain. Each difference has an estimate of its own error, and a gradient is called wrong
only if it is off by more than that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire.wire.tensors import Array

DIRECTIONS = 6
"""Directions per row: even ones are random, odd ones follow the gradient."""


@dataclass(frozen=True)
class Precision:
    """Lengths of the moves of rows, and the tolerance of a gradient.

    Attributes:
        steps: Lengths of the moves (L2), longest first, for inputs that span 1.
        tolerance: Tolerance of a gradient, relative to the change along the directions.
    """

    steps: tuple[float, ...]
    tolerance: float


# A central difference with step h is off by h**2 (curvature) and by eps / h (rounding): best near eps ** (1/3), which is 5e-3 in
# float32 and 6e-6 in float64, where it is good to 2e-5 and 4e-11. Real networks bend and break (ReLU, max-pooling) within less
# than that, and amplify the rounding, by thousands with TF32 or bfloat16; so several steps are tried, and for each direction
# the one is kept that agrees best with the next. Greatest errors of right gradients then, in 60 runs: float32 CNN of
# 144 ReLUs 5e-3 (with steps 1e-1 to 1e-3: 1.1e-1), float32 CNN of 170,000 ReLUs 2.6e-2, float64 without kinks 3e-9. Wrong ones
# (a forgotten std, a mean over other rows, a detached branch) are off by 1e-1 and more.
PRECISIONS = {
    4: Precision(steps=(1e-2, 1e-3, 1e-4), tolerance=0.03),
    8: Precision(steps=(1e-3, 1e-4, 1e-5), tolerance=1e-4),
}
"""Precisions by the bytes of an element."""

COARSE = {4: Precision(steps=(0.3, 0.1, 0.03), tolerance=0.1), 8: PRECISIONS[8]}
"""Precisions for float32 models that compute in bfloat16, whose rounding hides shorter steps."""


@dataclass(frozen=True)
class Differences:
    """Changes of ``c`` values of each of ``n`` rows along ``k`` directions, per unit of length.

    Attributes:
        moves: float64 ``(3, k, n, *row)``: from behind a row to ahead of it, from the row ahead, from behind to the row; of length
            1 but for rounding.
        changes: float64 ``(3, k, n, c)``.
        errors: Possible error of the first of the changes, ``(k, n)``.
        tolerance: Tolerance of gradients that are compared with them.
    """

    moves: Array
    changes: Array
    errors: Array
    tolerance: float


@dataclass(frozen=True)
class Agreement:
    """Agreement of a gradient with central differences in the worst row, relative to the changes.

    Attributes:
        error: Their difference.
        resolution: The part of it that may be the error of the differences.
        factor: The gradient as a multiple of the right one, if it is a multiple.
        tolerance: Allowed error if the differences are exact.
    """

    error: float
    resolution: float
    factor: float | None
    tolerance: float

    @property
    def allowed(self) -> float:
        """The greatest allowed ``error``."""
        return max(self.tolerance, 4 * self.resolution)

    @property
    def wrong(self) -> bool:
        """True if the error exceeds the allowed one."""
        return self.error > self.allowed

    @property
    def unclear(self) -> bool:
        """True if the differences are too noisy for a verdict."""
        return not self.wrong and self.resolution > 0.1


def directions(gradient: Array, rng: np.random.Generator) -> Array:
    """Makes unit vectors ``(DIRECTIONS, *gradient.shape)``.

    With many inputs, random directions are nearly orthogonal to any gradient: they detect a change that should not exist, but
    rounding hides a right one. A gradient's own direction, at a random half of the inputs, shows it at its full size.
    """
    result = rng.standard_normal((DIRECTIONS, *gradient.shape))
    result[1::2] = gradient * rng.integers(0, 2, result[1::2].shape) + 1e-3 * np.abs(gradient).mean() * result[1::2]
    lengths = np.sqrt((result**2).sum(axis=tuple(range(2, result.ndim)), keepdims=True))
    return result / np.where(lengths > 0, lengths, 1)


def differences(
    values: Callable[[Array], Array], x: Array, along: Array, spread: float, precision: Precision, eps: float
) -> Differences:
    """Computes central differences.

    Args:
        values: Rows ``(m, *row)`` to values ``(m, c)``; a row's values depend on that row alone.
        x: ``(n, *row)``, in the model's dtype.
        along: Unit vectors, ``(k, n, *row)``.
        spread: The size of inputs, which scales the steps.
        precision: The steps and the tolerance.
        eps: The rounding error of a value, relative to it.
    """
    moves, changes, apart = [], [], []
    here = values(x).astype(np.float64)
    for step in precision.steps:
        length = step * spread
        behind, ahead = ((x + sign * length * along).astype(x.dtype) for sign in (-1, 1))
        both = values(np.concatenate([behind.reshape(-1, *x.shape[1:]), ahead.reshape(-1, *x.shape[1:])])).astype(np.float64)
        below, above = both.reshape(2, *along.shape[:2], -1)
        moves.append(_three(behind.astype(np.float64), x, ahead) / length)
        changes.append(_three(below, here, above) / length)
        if len(changes) > 1:
            rounding = eps * np.abs(both).max() / length
            apart.append(np.abs(changes[-2][0] - changes[-1][0]).max(axis=-1) + rounding)
    best = np.argmin(apart, axis=0)
    index: tuple[Any, ...] = tuple(np.ogrid[: best.shape[0], : best.shape[1]])

    def chosen(of_steps: list[Array]) -> Array:
        picked: Array = np.moveaxis(np.stack(of_steps[1:]), 1, 0)[:, best, index[0], index[1]]
        return picked

    return Differences(chosen(moves), chosen(changes), np.stack(apart)[best, index[0], index[1]], precision.tolerance)


def _three(behind: Array, here: Array, ahead: Array) -> Array:
    return np.stack([(ahead - behind) / 2, ahead - here, here - behind])


def agreement(found: Differences, gradient: Array) -> Agreement:
    """Compares gradients ``(n, c, *row)`` with differences.

    At a kink of the model (ReLU, max-pooling) a gradient is that of one side, so the nearest of the central, forward and
    backward difference counts. For a row, the median over directions counts, because some hit several kinks while a wrong
    gradient fails along most. Over rows, the worst counts, so that one wrong row among right ones is found.
    """
    n, c = gradient.shape[:2]
    flat = gradient.reshape(n, c, -1).astype(np.float64)
    moves = found.moves.reshape(*found.moves.shape[:3], -1)
    predicted = np.einsum("ncd,sknd->sknc", flat, moves, optimize=True)
    worst = Agreement(0.0, np.inf, None, found.tolerance)
    for kind in (slice(0, None, 2), slice(1, None, 2)):
        for row in range(n):
            this = _of_row(predicted[:, kind, row], found.changes[:, kind, row], found.errors[kind, row], found.tolerance)
            worst = max(worst, this, key=lambda a: (a.wrong, not a.unclear, a.error))
    return worst


def _of_row(predicted: Array, measured: Array, errors: Array, tolerance: float) -> Agreement:
    """Compares one row along directions of one kind: ``(3, k, c)``, ``(3, k, c)``, ``(k,)``."""
    size = float(np.sqrt(np.mean(np.maximum(np.abs(measured[0]), np.abs(predicted[0])).max(axis=-1) ** 2)))
    if not size:
        return Agreement(0.0, np.inf, None, tolerance)

    def error_of(gradient: Array) -> float:
        return float(np.median(np.abs(gradient - measured).max(axis=-1).min(axis=0))) / size

    error = error_of(predicted)
    factor = None
    if error > tolerance and measured[0].any():
        ratio = float((predicted[0] * measured[0]).sum() / (measured[0] ** 2).sum())
        factor = ratio if ratio and error_of(predicted / ratio) < error / 5 else None
    return Agreement(error, float(np.median(errors)) / size, factor, tolerance)
