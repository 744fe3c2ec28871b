"""Defences of owners under test. numpy only: servers of other environments import this too."""

from __future__ import annotations

from typing import Any

import numpy as np


class Sine:
    """A defence in front, with its own gradient."""

    apply_fit = False
    apply_predict = True

    def __call__(self, x: Any, y: Any = None) -> tuple[Any, Any]:
        return np.sin(x), y

    def estimate_gradient(self, x: Any, grad: Any) -> Any:
        return grad * np.cos(x)


class Rounded:
    """A defence behind: callers see outputs in steps of a quarter."""

    apply_fit = False
    apply_predict = True

    def __call__(self, preds: Any) -> Any:
        return np.round(preds * 4) / 4
