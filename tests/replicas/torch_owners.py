"""What owners of replicated torch models have written."""

from __future__ import annotations

from pathlib import Path

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


def while_allowed(forbidden: str) -> nn.Module:
    """A file that is not always there."""
    if Path(forbidden).exists():
        raise OSError("the disk with the weights is not there now")
    return mlp()


def broken() -> nn.Module:
    """Of no use."""
    raise RuntimeError("the disk with the weights is not there")
