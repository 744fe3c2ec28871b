"""The memory layout of a module's images: channel by channel, torch's own, or pixel by pixel (channels last).

The faster one depends on the layers and their sizes, so that it is measured when a model is loaded. CNN of two
convolutions with max pooling, 1x28x28, one thread, channels first / last in ms: predict 32 rows 4.8/2.5, 128 rows 10.7/5.2,
loss gradient 32 rows 8.6/8.2, 128 rows 24.5/21.7. A single convolution of 8x8 pixels, loss gradient of 128 rows: 0.63/0.98.
ResNet18 at 3x32x32, 32 rows: predict 338/339, loss gradient 791/701.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from gradwire.backends.backend import Array

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
"""By the names of the configuration."""

# The gain that a change needs, predict's share of the time times the gradient's: less may be noise, and torch's own layout gives
# torch's own last digits.
_WORTH_IT = 0.9
_MAX_ROWS = 32
_ROUNDS = 8
_BUDGET_S = 1.0


def applies(module: nn.Module, input_shape: tuple[int, ...]) -> bool:
    """True if a module has convolutions of images of a known size, so that the layout matters."""
    images = len(input_shape) == 3 and -1 not in input_shape
    return images and any(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in module.modules())


class Computing(Protocol):
    """A module whose layout can be changed."""

    def lay_out(self, memory_format: torch.memory_format) -> None:
        """Changes the layout of the module."""
        ...

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Outputs ``(n, C)``."""
        ...

    def gradient_of_sum(self, x: Array) -> Array:
        """The gradient of the summed outputs."""
        ...


def fastest(model: Computing, input_shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.memory_format:
    """Measures the layout in which a model computes faster; torch's own if the other fails or gains little."""
    rows = np.random.default_rng(0).random((_MAX_ROWS, *input_shape)).astype(dtype)
    model.lay_out(torch.contiguous_format)
    try:
        model.gradient_of_sum(rows[:1])
        took_s = _seconds(lambda: model.gradient_of_sum(rows[:1]))
        x = rows[: max(1, min(_MAX_ROWS, int(_BUDGET_S / _ROUNDS / took_s)))]
        expected = model.predict(x, training_mode=False)
        model.lay_out(torch.channels_last)
        found = model.predict(x, training_mode=False)
        model.gradient_of_sum(x)
    except Exception:
        # In torch's own layout: the model has no gradient, or does not take such rows, which calls will report. In the other:
        # mostly a `view`, which does not take an image that lies pixel by pixel.
        return torch.contiguous_format
    if not np.allclose(found, expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max()):
        return torch.contiguous_format
    work = (lambda: model.predict(x, training_mode=False), lambda: model.gradient_of_sum(x))
    best = np.full((2, 2), np.inf)
    for _ in range(_ROUNDS):
        for i, memory_format in enumerate((torch.contiguous_format, torch.channels_last)):
            model.lay_out(memory_format)
            best[i] = np.minimum(best[i], [_seconds(w) for w in work])
    share = best[1] / best[0]
    return torch.channels_last if share.prod() < _WORTH_IT and share.max() < 1 / _WORTH_IT else torch.contiguous_format


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
