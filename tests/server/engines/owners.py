"""Owners' code of replicated models."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def whereabouts(seconds: float) -> Callable[[Any], Any]:
    """Predictor of a row's first value and of the pid, after a delay."""

    def predict(x: Any) -> Any:
        time.sleep(seconds)
        return np.stack([x[:, 0], np.full(len(x), os.getpid(), x.dtype)], axis=1)

    return predict
