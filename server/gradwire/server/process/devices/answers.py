"""Whether the models of several processes are the same: what each answers to a few rows that are the same for all.

A factory that draws weights anew in each process, or a file of weights that has changed since the others read it, shows here.
It is no proof of being the same: devices compute differently, and answers that are close count as equal.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.errors import BackendError
from gradwire.backends.estimator import Estimator

_ROWS = 4
_VALUES = 64
"""Of each row."""
_CLOSE = 0.05
"""Of the largest number in the answer. float16 and bfloat16 are off by less than 0.01, weights that were drawn anew by about 1."""


def answers_of(estimators: Mapping[str, Estimator]) -> dict[str, list[float]]:
    """By model, the first numbers that it puts out for each row; of those that answer any row, and the same one alike."""
    found = {}
    for name, estimator in estimators.items():
        answer = _answer(estimator)
        if answer is not None:
            found[name] = answer
    return found


def _answer(estimator: Estimator) -> list[float] | None:
    config, model = estimator.config, estimator.model
    # A black box may be somebody else's service, where every row is paid for, or a table, which has no other rows than its own.
    # What is made of other models is as they are.
    if config.backend == "blackbox" or config.made_of or not model.fitted:
        return None
    if model.input_dtype.kind != "f" or -1 in config.input_shape:
        return None
    low, high = (
        (0.0, 1.0) if config.clip_values is None else (float(np.min(config.clip_values[0])), float(np.max(config.clip_values[1])))
    )
    rows = np.random.default_rng(0).uniform(low, high, (_ROWS, 1, *config.input_shape)).astype(model.input_dtype)
    try:
        # One by one: a model that is compiled has been so for one row.
        once, *others, again = (estimator.predict(row).ravel()[:_VALUES].astype(np.float64) for row in (*rows, rows[0]))
    except BackendError:
        return None
    answer = np.concatenate([once, *others])
    # Dropout that stays on, or a defence that draws: such a model is like none, itself included.
    if not np.isfinite(answer).all() or not _close(once, again):
        return None
    return [float(value) for value in answer]


def differing(one: Mapping[str, list[float]], other: Mapping[str, list[float]]) -> list[str]:
    """The names of models that two processes do not agree on."""
    both = [name for name in one if name in other]
    return [name for name in both if not _close(np.asarray(one[name]), np.asarray(other[name]))]


def _close(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    scale = max(float(np.abs(one).max(initial=0.0)), float(np.abs(other).max(initial=0.0)))
    return bool(np.abs(one - other).max(initial=0.0) <= _CLOSE * scale)
