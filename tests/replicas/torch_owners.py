"""What owners of replicated torch models have written."""

from __future__ import annotations

import torch
from torch import nn


def mlp() -> nn.Module:
    """Six inputs, three classes, the same weights in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def unseeded() -> nn.Module:
    """Other weights each time."""
    torch.seed()
    return nn.Linear(6, 3)


def broken() -> nn.Module:
    """Of no use."""
    raise RuntimeError("the disk with the weights is not there")
