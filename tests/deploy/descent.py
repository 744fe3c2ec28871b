"""Projected gradient descent as plain code, for tests that compare its results between servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gradwire.client import RemoteEstimator


def pgd(model: RemoteEstimator, x: Any, y: Any, go_on: Callable[[int], bool]) -> tuple[Any, int]:
    """Under the L-infinity norm, as long as ``go_on`` says so of the steps so far: adversarial rows, and the steps."""
    found, steps = x, 0
    while go_on(steps):
        found = found + np.float32(0.005) * np.sign(model.loss_gradient(found, y)).astype(np.float32)
        found = np.clip(np.clip(found, x - 0.1, x + 0.1), 0, 1)
        steps += 1
    return found, steps
