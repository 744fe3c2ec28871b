"""Warm-up of a loaded model: each operation runs once, so that no caller waits for a framework's first call.

A warm-up does not change the model. If it fails, the model is served all the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from gradwire.backends.backend import Array, Model
from gradwire.backends.capabilities import Operation, capabilities
from gradwire.backends.config import ModelConfig

log = logging.getLogger("gradwire.backends")


def warm_up(model: Model, config: ModelConfig, row: Array) -> None:
    """Predicts and differentiates once for each number of rows in ``config.warm_up``.

    Args:
        model: The loaded model.
        config: Its configuration.
        row: A model input, ``(1, *row)``, that the model accepts.
    """
    if not config.warm_up:
        return
    began_s = time.perf_counter()
    for name, work in _operations(model, config).items():
        for rows in sorted(set(config.warm_up)):
            if rows > config.max_batch_rows:
                continue
            try:
                work(np.repeat(row, rows, axis=0))
            except Exception as e:
                # A caller of the operation gets the same error.
                log.warning("warming up %s of %d rows failed: %s: %s", name, rows, type(e).__name__, e)
                break
    log.info(
        "warmed up the %s model in %.1f s, for %s rows",
        config.backend,
        time.perf_counter() - began_s,
        ", ".join(map(str, config.warm_up)),
    )


def _operations(model: Any, config: ModelConfig) -> dict[str, Callable[[Array], Any]]:
    can = capabilities(model)
    operations: dict[str, Callable[[Array], Any]] = {"predict": lambda x: model.predict(x, training_mode=False)}
    if Operation.LOSS_GRADIENT in can:
        operations["loss_gradient"] = lambda x: model.loss_gradient(x, _labels(model, config, x), training_mode=False)
    if Operation.CLASS_GRADIENT in can:
        operations["class_gradient of labels"] = lambda x: model.class_gradient(x, np.zeros(len(x), np.int64), training_mode=False)
        operations["class_gradient"] = lambda x: model.class_gradient(x, None, training_mode=False)
    return operations


def _labels(model: Model, config: ModelConfig, x: Array) -> Array:
    if config.task == "regression":
        return model.predict(x, training_mode=False)
    return np.zeros(len(x), np.int64)
