"""The small CNN that all contenders run, and the inputs that all of them get.

Needs numpy alone, and torch where the model is made: the processes of the peers import it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

Array: TypeAlias = NDArray[Any]

INPUT_SHAPE = (1, 28, 28)
NB_CLASSES = 10

CONV_LAYER = "0"
"""Its output has 16 x 24 x 24 numbers a row, twelve times the input."""
DENSE_LAYER = "7"
"""Its output has 128 numbers a row."""

LEARNING_RATE = 0.01
MOMENTUM = 0.9


def cnn() -> nn.Sequential:
    """Makes a CNN of two convolutions and two linear layers; the weights are the same every time."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, 128),
            nn.ReLU(),
            nn.Linear(128, NB_CLASSES),
        )


@dataclass(frozen=True)
class Inputs:
    """Inputs of one call.

    Attributes:
        x: float32 ``(n, 1, 28, 28)`` between 0 and 1.
        y: int64 ``(n,)``.
        one_hot: ``y`` as float32 ``(n, 10)``, for contenders that take labels only in this form.
        cotangent: float32 ``(n, 10)``.
        batch_size: Batch size of a fit.
    """

    x: Array
    y: Array
    one_hot: Array
    cotangent: Array
    batch_size: int


def inputs(rows: int, batch_size: int = 128) -> Inputs:
    """Makes the inputs for a number of rows; the same every time."""
    random = np.random.default_rng(rows)
    y = random.integers(0, NB_CLASSES, rows)
    return Inputs(
        x=random.random((rows, *INPUT_SHAPE), np.float32),
        y=y,
        one_hot=np.eye(NB_CLASSES, dtype=np.float32)[y],
        cotangent=random.standard_normal((rows, NB_CLASSES), np.float32),
        batch_size=batch_size,
    )
