"""Factories of torch modules, as model owners write them, for server processes."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn


def linear(nb_inputs: int = 64, nb_classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(nb_inputs, nb_classes)


class SlowSteps(nn.Module):
    """A linear model whose training steps take their time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        if self.training:
            time.sleep(0.05)
        return self.inner(x)
