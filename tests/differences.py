"""Gradients by central differences: what every analytic gradient is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def gradient(f: Callable[[NDArray[Any]], NDArray[Any]], x: NDArray[Any], step: float = 1e-5) -> NDArray[Any]:
    """Gradients of each row's values with respect to the same row.

    Args:
        f: Rows ``(n, *row)`` to values ``(n, *values)``; a row's values depend on that row alone.
        x: float64 ``(n, *row)``.
        step: In float64 the truncation error is of order ``step ** 2``, and the rounding error of ``1e-16 / step``.

    Returns:
        ``(n, *values, *row)``.
    """
    columns = []
    for index in np.ndindex(x.shape[1:]):
        moved = np.zeros_like(x)
        moved[(slice(None), *index)] = step
        columns.append((f(x + moved) - f(x - moved)) / (2 * step))
    stacked = np.stack(columns, axis=-1)
    return stacked.reshape(*stacked.shape[:-1], *x.shape[1:])
