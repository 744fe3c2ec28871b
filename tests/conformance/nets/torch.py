"""Torch modules that the conformance body is run on."""

from __future__ import annotations

import torch
from conformance.cases import diabetes
from torch import nn

import models


def smooth_cnn() -> nn.Module:
    """1x8x8 to 10 logits, float64; softplus and average pooling have gradients everywhere."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Softplus(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 10)
    ).double()


def float32_cnn() -> nn.Module:
    """3x6x6 to 5 logits, float32, with batch normalisation and dropout."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.Softplus(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(96, 12),
        nn.Tanh(),
        nn.Linear(12, 5),
    )


class Deep(nn.Module):
    """Modules inside modules."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.Tanh(), nn.Linear(8, 8)))
        self.head = nn.Linear(8, 4)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def binary() -> nn.Module:
    """Five features to one logit."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1)).double()


def recurrent() -> nn.Module:
    """Steps of three features to four logits. Without dropout, so that a fit can be repeated."""
    return models.Recurrent("GRU", dropout=0.0)


def regression(outputs: int = 1) -> nn.Module:
    """The features of `diabetes` to values, float64."""
    return models.mlp(diabetes.NB_FEATURES, outputs)
