"""The attacked model, a small CNN fitted to scikit-learn's digits, and the digits that attacks begin with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.model import Array, cnn

_EPOCHS, _BATCH, _LEARNING_RATE = 4, 64, 2e-3
_ENLARGED, _MARGIN = 3, 2
"""Digits of 8 x 8 become 24 x 24, in the middle of 28 x 28."""


def digits() -> tuple[Array, Array]:
    """Loads all digits, float32 ``(1797, 1, 28, 28)`` between 0 and 1, and their classes."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32).repeat(_ENLARGED, 1).repeat(_ENLARGED, 2)
    return np.pad(images, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))[:, None], data.target


def save(path: Path) -> None:
    """Fits the CNN and saves its weights, as safetensors."""
    module = cnn()
    x, y = map(torch.from_numpy, digits())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(module.parameters(), _LEARNING_RATE)
        for _ in range(_EPOCHS):
            for rows in torch.randperm(len(x)).split(_BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
                optimizer.step()
    save_file(module.state_dict(), path)


def fitted(path: Path) -> nn.Sequential:
    """Makes the CNN with saved weights."""
    module = cnn()
    module.load_state_dict(load_file(path))
    return module.eval()


def victims(module: nn.Sequential, rows: int) -> tuple[Array, Array]:
    """Selects the first digits that the module classifies correctly."""
    x, y = digits()
    with torch.inference_mode():
        right = module(torch.from_numpy(x)).argmax(1).numpy() == y
    return x[right][:rows], y[right][:rows]
