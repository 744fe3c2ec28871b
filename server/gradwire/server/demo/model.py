"""Model of the demo: a small CNN on scikit-learn's 8x8 digits. An example of an owner's module, with factory and training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

EPOCHS = 15


def digits_cnn() -> nn.Sequential:
    """CNN from rows 1x8x8 in [0, 1] to logits of ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def training_part() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Three quarters of the digits: ``(n, 1, 8, 8)`` in [0, 1], and their classes. Attackers use the other quarter."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = (digits.images[:, None] / 16).astype(np.float32)
    # The same split as in gradwire.client.demo.digits, which the server must not import; a test compares the two.
    part, _, labels, _ = train_test_split(x, digits.target.astype(np.int64), test_size=0.25, random_state=0, stratify=digits.target)
    return part, labels


def train(weights: Path, on_epoch: Callable[[int, float, float], None]) -> None:
    """Trains the CNN in a few seconds, and writes its weights.

    Args:
        weights: A safetensors file.
        on_epoch: Called after every epoch with its number, its mean loss and its accuracy.
    """
    torch.manual_seed(0)
    images, classes = training_part()
    x, y = torch.from_numpy(images), torch.from_numpy(classes)
    model = digits_cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(1, EPOCHS + 1):
        total, correct = 0.0, 0
        order = torch.randperm(len(x))
        for begin in range(0, len(x), 64):
            rows = order[begin : begin + 64]
            outputs = model(x[rows])
            loss = criterion(outputs, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
            correct += int((outputs.argmax(1) == y[rows]).sum())
        on_epoch(epoch, total / len(x), correct / len(x))
    save_file(model.state_dict(), weights)
