"""Data of regressions: scikit-learn's diabetes, features between 0 and 1, a target of variance 1."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

NB_FEATURES = 10


@cache
def _loaded() -> tuple[Any, Any]:
    from sklearn.datasets import load_diabetes
    from sklearn.preprocessing import minmax_scale, scale

    x, y = load_diabetes(return_X_y=True)
    return minmax_scale(x), scale(y)[:, None]


def x() -> Any:
    """``(442, 10)``."""
    return _loaded()[0]


def y() -> Any:
    """``(442, 1)``."""
    return _loaded()[1]


def y_and_square() -> Any:
    """``(442, 2)``."""
    return np.hstack([y(), y() ** 2])


def _drawn(n: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, len(x()), n)


def rows(n: int, seed: int) -> Any:
    """``(n, 10)``."""
    return x()[_drawn(n, seed)]


def targets(of: Callable[[], Any]) -> Callable[[int, int], Any]:
    """``make(n, seed)`` gives the rows of ``of()`` that belong to `rows` with the same seed."""
    return lambda n, seed: of()[_drawn(n, seed)]
