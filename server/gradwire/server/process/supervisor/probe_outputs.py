"""Comparison of the models of several processes by their outputs for a few common rows.

It detects a factory that draws new weights in each process, and a file of weights that has changed between two processes. It
does not prove equality: devices compute differently, and outputs that are close count as equal.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.errors import BackendError
from gradwire.backends.estimator import Estimator

_ROWS = 4
_VALUES = 64
"""Numbers of each row that are compared."""
_CLOSE = 0.05
"""Tolerance relative to the largest number. float16 and bfloat16 differ by less than 0.01, newly drawn weights by about 1."""


def probe_outputs(estimators: Mapping[str, Estimator]) -> dict[str, list[float]]:
    """The first outputs for each row by model, for models that accept any row and are deterministic."""
    outputs = {}
    for name, estimator in estimators.items():
        probed = _probe(estimator)
        if probed is not None:
            outputs[name] = probed
    return outputs


def _probe(estimator: Estimator) -> list[float] | None:
    config, model = estimator.config, estimator.model
    # A black box may be a remote service with a price for each row, or a table, which accepts only its own rows. An ensemble's
    # members are probed themselves.
    if config.backend == "blackbox" or config.made_of or not model.fitted:
        return None
    if model.input_dtype.kind != "f" or -1 in config.input_shape:
        return None
    low, high = (
        (0.0, 1.0) if config.clip_values is None else (float(np.min(config.clip_values[0])), float(np.max(config.clip_values[1])))
    )
    rows = np.random.default_rng(0).uniform(low, high, (_ROWS, 1, *config.input_shape)).astype(model.input_dtype)
    try:
        # Row by row, because loading has compiled a compiled model for one row.
        once, *others, again = (estimator.predict(row).ravel()[:_VALUES].astype(np.float64) for row in (*rows, rows[0]))
    except BackendError:
        return None
    outputs = np.concatenate([once, *others])
    # With active dropout, or a random defence, a model does not even equal itself.
    if not np.isfinite(outputs).all() or not _close(once, again):
        return None
    return [float(value) for value in outputs]


def differing_models(one: Mapping[str, list[float]], other: Mapping[str, list[float]]) -> list[str]:
    """Names of the models whose outputs differ between two processes."""
    both = [name for name in one if name in other]
    return [name for name in both if not _close(np.asarray(one[name]), np.asarray(other[name]))]


def _close(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    scale = max(float(np.abs(one).max(initial=0.0)), float(np.abs(other).max(initial=0.0)))
    return bool(np.abs(one - other).max(initial=0.0) <= _CLOSE * scale)
