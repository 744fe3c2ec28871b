"""Models that compute next to nothing, so that only the server's own time remains."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def means() -> nn.Sequential:
    """Makes a model of 10 outputs from the means of three channels; the predicted class depends on them."""
    torch.set_num_threads(1)
    linear = nn.Linear(3, 10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nn.init.normal_(linear.weight, std=50.0)
    linear.bias.data = -0.5 * linear.weight.data.sum(1)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def entry(name: str, side: int) -> dict[str, Any]:
    """Makes the entry of `means` in the list of models, for images of ``side`` pixels each way."""
    return {
        "name": name,
        "backend": "torch",
        "factory": means,
        "loss": {"path": "torch.nn.CrossEntropyLoss"},
        "input_shape": [3, side, side],
        "nb_classes": 10,
        "clip_values": [0.0, 1.0],
        "access": "gradients",
    }


def cnn() -> dict[str, Any]:
    """Makes the entry of the other benchmarks' CNN in the list of models."""
    from benchmarks.model import cnn as make

    return {
        "name": "cnn",
        "backend": "torch",
        "factory": make,
        "loss": {"path": "torch.nn.CrossEntropyLoss"},
        "input_shape": [1, 28, 28],
        "nb_classes": 10,
        "clip_values": [0.0, 1.0],
        "access": "gradients",
    }
