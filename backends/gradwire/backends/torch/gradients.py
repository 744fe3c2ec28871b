"""Gradients with respect to the inputs, and the ways to compute those of every output.

Invariant: a missing gradient is an error, and never zeros; the ways differ in time and in last digits alone.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch

from gradwire.backends import jacobians
from gradwire.backends.backend import Array
from gradwire.backends.errors import Unsupported

Way: TypeAlias = Literal["repeat", "loop", "batch"]
OutputsOf: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
EveryGradient: TypeAlias = Callable[[Array, Way], Array]
ToArray: TypeAlias = Callable[[torch.Tensor], Array]

# Bounds the memory of repeating. 1 row, 256 classes, in ms: at once 58, 64 rows at a time 64, 16 at a time 78; loop 161.
_REPEATED_ROWS = 64
# Bounds the memory of a batch of backwards: as many as 10 classes of 128 rows.
_BATCHED_ROWS = 1280
# Where nothing is measured: CNN of two convolutions, 1x28x28, 10 classes, one thread, repeat / loop / batch in ms: 1 row
# 2.3/3.8/3.0, 2 rows 4.7/5.1/4.2, 8 rows 17.6/11.9/13.6, 32 rows 61/39/45, 128 rows 250/153/211.
_REPEAT_MAX_ROWS = 2

_MEASURED_ROWS = (1, 3, 8, 32)
_WAYS: tuple[Way, ...] = get_args(Way)
_ROUNDS = 3
_BUDGET_S = 0.5
_MEASURED_NBYTES = 32 << 20
# The gain that a way needs over the default way: less may be noise.
_WORTH_IT = 0.9


def of(differentiated: torch.Tensor, leaf: torch.Tensor, cotangent: torch.Tensor | None, **options: Any) -> torch.Tensor:
    """The cotangent times the Jacobian, in the shape of ``leaf``. Raises Unsupported if autograd finds no gradient."""
    gradient = None
    if differentiated.requires_grad:
        (gradient,) = torch.autograd.grad(differentiated, leaf, cotangent, allow_unused=True, **options)
    if gradient is None:
        # Zeros would pass for a robust model.
        raise Unsupported("autograd finds no path back to the inputs: an operation in between is detached, or not differentiable")
    return gradient


def columns(outputs: torch.Tensor) -> torch.Tensor:
    """Returns the outputs if they are ``(n, C)``. Raises Unsupported."""
    jacobians.check_columns(outputs.shape)
    return outputs


# The ways: gradients of the outputs `outputs_of` a leaf, as `array` brings them to the host. A known `nb_outputs` saves a forward.


def by_repeating(outputs_of: OutputsOf, leaf: torch.Tensor, array: ToArray, nb_outputs: int | None) -> Array:
    """Repeats each row for each class, with one forward and one backward for all of them; ``(n, C, *row)``."""
    n, row = leaf.shape[0], leaf.shape[1:]
    if nb_outputs is None:
        with torch.no_grad():
            nb_outputs = columns(outputs_of(leaf)).shape[1]
    step = max(1, _REPEATED_ROWS // n)
    parts = []
    for first in range(0, nb_outputs, step):
        classes = torch.arange(first, min(first + step, nb_outputs), device=leaf.device)
        repeated = leaf.detach().repeat_interleave(len(classes), 0).requires_grad_()
        chosen = columns(outputs_of(repeated)).gather(1, classes.repeat(n)[:, None])
        parts.append(array(of(chosen, repeated, torch.ones_like(chosen))).reshape(n, len(classes), *row))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def by_looping(outputs_of: OutputsOf, leaf: torch.Tensor, array: ToArray, nb_outputs: int | None) -> Array:
    """Runs one forward, and one backward for each class; ``(n, C, *row)``."""
    outputs = columns(outputs_of(leaf))
    nb_outputs = outputs.shape[1]
    result: Array | None = None
    for k in range(nb_outputs):
        one = torch.zeros_like(outputs)
        one[:, k] = 1
        gradient = array(of(outputs, leaf, one, retain_graph=k < nb_outputs - 1))
        if result is None:
            result = np.empty((len(gradient), nb_outputs, *gradient.shape[1:]), gradient.dtype)
        result[:, k] = gradient
    assert result is not None, "a model has outputs"
    return result


def by_batching(outputs_of: OutputsOf, leaf: torch.Tensor, array: ToArray, nb_outputs: int | None) -> Array:
    """Runs one forward and a batch of backwards, for modules that ``torch.vmap`` takes; ``(n, C, *row)``."""
    outputs = columns(outputs_of(leaf))
    n, nb_outputs = outputs.shape
    step = max(1, _BATCHED_ROWS // n)
    eye = torch.eye(nb_outputs, dtype=outputs.dtype, device=outputs.device)[:, None, :]
    parts = []
    for first in range(0, nb_outputs, step):
        ones = eye[first : first + step].expand(-1, n, -1)
        gradient = of(outputs, leaf, ones, is_grads_batched=True, retain_graph=first + step < nb_outputs)
        parts.append(array(gradient.transpose(0, 1)))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


WAYS: dict[Way, Callable[[OutputsOf, torch.Tensor, ToArray, int | None], Array]] = {
    "repeat": by_repeating,
    "loop": by_looping,
    "batch": by_batching,
}


class Ways:
    """The way for each number of rows.

    Attributes:
        measured: The least number of rows and the fastest way from there on; empty if nothing has been measured.
    """

    def __init__(self, measured: tuple[tuple[int, Way], ...] = ()) -> None:
        self.measured = measured
        self._rows = [rows for rows, _ in measured]

    def __call__(self, rows: int) -> Way:
        """The way for so many rows."""
        if not self.measured:
            return _default_way(rows)
        return self.measured[max(0, bisect_right(self._rows, rows) - 1)][1]


def fastest(
    every_gradient: EveryGradient, input_shape: tuple[int, ...], nb_outputs: int, dtype: np.dtype[Any], max_rows: int
) -> Ways:
    """Measures for half a second the fastest ways to compute a model's gradients of every output.

    Args:
        every_gradient: Computes gradients ``(n, C, *row)`` of model inputs ``(n, *row)`` in a way.
        input_shape: Of a row; every size known.
        nb_outputs: How many gradients a row has. If they are large, nothing is measured: even one row would take too long.
        dtype: Of model inputs.
        max_rows: More are not computed at once.
    """
    x = np.random.default_rng(0).random((_MEASURED_ROWS[-1], *input_shape)).astype(dtype)
    measured: list[tuple[int, Way]] = []
    left_s = _BUDGET_S
    for rows in _MEASURED_ROWS:
        began_s = time.perf_counter()
        small = rows <= max_rows and rows * nb_outputs * x[0].nbytes <= _MEASURED_NBYTES
        way = _fastest(every_gradient, x[:rows], left_s) if small else None
        left_s -= time.perf_counter() - began_s
        if way is None:
            # More rows are not like the few that were measured.
            if measured:
                measured.append((rows, _default_way(rows)))
            break
        measured.append((rows, way))
    return Ways(tuple(measured))


def _fastest(every_gradient: EveryGradient, x: Array, left_s: float) -> Way | None:
    """Measures the fastest way for the rows; None if gradients fail or take too long to measure."""
    usual = _default_way(len(x))
    try:
        begin_s = time.perf_counter()
        expected = every_gradient(x, usual)
        first_s = time.perf_counter() - begin_s
    except Exception:
        # The model has no gradients, or does not take such rows, which calls will report.
        return None
    if len(_WAYS) * (_ROUNDS + 1) * first_s > left_s:
        return None
    ways = [way for way in _WAYS if way == usual or _agrees(every_gradient, x, way, expected)]
    best = dict.fromkeys(ways, np.inf)
    for _ in range(_ROUNDS):
        for way in ways:
            best[way] = min(best[way], _seconds(every_gradient, x, way))
    fastest = min(ways, key=lambda way: best[way])
    return fastest if best[fastest] < _WORTH_IT * best[usual] else usual


def _agrees(every_gradient: EveryGradient, x: Array, way: Way, expected: Array) -> bool:
    try:
        found = every_gradient(x, way)
    except Exception:
        # vmap refuses some modules: recurrent ones, and those that work in place or look at values.
        return False
    return np.allclose(found, expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())


def _default_way(rows: int) -> Way:
    return "repeat" if rows <= _REPEAT_MAX_ROWS else "loop"


def _seconds(every_gradient: EveryGradient, x: Array, way: Way) -> float:
    begin_s = time.perf_counter()
    every_gradient(x, way)
    return time.perf_counter() - begin_s
