"""What regressions are served and fitted on: scikit-learn's diabetes data, features between 0 and 1, a target of variance 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import minmax_scale, scale

NB_FEATURES = 10
_x, _y = load_diabetes(return_X_y=True)
X = minmax_scale(_x)
Y = scale(_y)[:, None]
Y_AND_SQUARE = np.hstack([Y, Y**2])


def _drawn(n: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, len(X), n)


def rows(n: int, seed: int) -> Any:
    """``(n, 10)``."""
    return X[_drawn(n, seed)]


def targets(of: Any) -> Callable[[int, int], Any]:
    """``make(n, seed)`` gives the rows of ``of`` that belong to `rows` with the same seed."""
    return lambda n, seed: of[_drawn(n, seed)]
