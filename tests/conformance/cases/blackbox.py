"""Callables, and a table of known answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from conformance.case import PREDICT, Case, uniform


def centroids() -> Callable[[Any], Any]:
    """A black box: softmax of minus the distances to four points."""
    points = np.random.default_rng(0).normal(size=(4, 6))

    def predict(x: Any) -> Any:
        scores = -((x[:, None, :] - points) ** 2).sum(-1)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    return predict


POOL = np.random.default_rng(1).uniform(0.05, 0.95, (20_000, 6)).astype(np.float32)


def known() -> tuple[Any, Any]:
    """A table: what `centroids` answers to the rows of the pool, and to all rows of the numbers 0, 1 and 2."""
    x = np.concatenate([POOL, np.stack(np.unravel_index(np.arange(3**6), (3,) * 6), axis=1)]).astype(np.float32)
    return x, centroids()(x)


def of_pool(n: int, seed: int) -> Any:
    return POOL[np.random.default_rng(seed).integers(0, len(POOL), n)]


CASES = {
    "blackbox": Case(dict(backend="blackbox", factory=centroids, input_shape=[6], nb_classes=4), uniform(6), PREDICT),
    "blackbox-table": Case(
        dict(backend="blackbox", factory=known, tolerance=1e-5, input_shape=[6], nb_classes=4), of_pool, PREDICT
    ),
}
