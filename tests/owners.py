"""Factories of black boxes, as model owners write them, for server processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def slow(seconds: float, log: str = "") -> Callable[[Any], Any]:
    """Two classes; takes its time for every block, and notes each in a file."""

    def predict(x: Any) -> Any:
        if log:
            with Path(log).open("a") as file:
                file.write(f"{len(x)}\n")
        time.sleep(seconds)
        return np.full((len(x), 2), 0.5)

    return predict


def sums() -> Callable[[Any], Any]:
    """Two columns: the sum of a row, and minus it."""

    def predict(x: Any) -> Any:
        total = x.reshape(len(x), -1).sum(1, dtype=np.float64)
        return np.stack([total, -total], axis=1).astype(np.float32)

    return predict


def suicidal() -> Callable[[Any], Any]:
    """Ends its process in the middle of a call if the first input is negative."""

    def predict(x: Any) -> Any:
        if x.flat[0] < 0:
            os._exit(9)
        return np.full((len(x), 2), 0.5)

    return predict


def exits() -> Callable[[Any], Any]:
    def predict(x: Any) -> Any:
        if x.flat[0] < 0:
            raise SystemExit(3)
        return np.full((len(x), 2), 0.5)

    return predict


def hangs(seconds: float) -> Callable[[Any], Any]:
    """Two classes; does not come back for long if the first input is negative."""

    def predict(x: Any) -> Any:
        if x.flat[0] < 0:
            time.sleep(seconds)
        return np.full((len(x), 2), 0.5)

    return predict
