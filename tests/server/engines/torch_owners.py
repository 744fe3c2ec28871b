"""Owners' code of replicated torch models."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn


def mlp() -> nn.Module:
    """Network of six inputs and three classes, with the same weights in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def unseeded() -> nn.Module:
    """Network with new weights in each process."""
    torch.seed()
    return nn.Linear(6, 3)


def while_allowed(forbidden: str) -> nn.Module:
    """Network that fails to load while a file exists."""
    if Path(forbidden).exists():
        raise OSError("the disk with the weights is not there now")
    return mlp()


def broken() -> nn.Module:
    """Factory that always fails."""
    raise RuntimeError("the disk with the weights is not there")
