"""Operations computed once when a model is loaded, so that no caller waits for what frameworks do at a first call.

What holds: a model that has been warmed up is the model that it was before, and one that cannot be is served all the same.
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
    """Predicts and differentiates as many rows as ``config.warm_up`` says, each number of them once.

    Args:
        model: It takes ``row``.
        config: Its configuration.
        row: A model input, ``(1, *row)``.
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
                # For those to hear who ask for it.
                log.warning("warming up %s of %d rows failed: %s: %s", name, rows, type(e).__name__, e)
                break
    log.info(
        "%s model warmed up in %.1f s, for %s rows",
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
