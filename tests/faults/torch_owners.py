"""Factory of a torch net whose every use waits at a gate."""

from __future__ import annotations

import time
from typing import Any

import torch
from faults.owners import Gate
from torch import nn


class Gated(nn.Module):
    """Six inputs, three classes. Its training steps take their time."""

    def __init__(self, gate: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)
        self._gate = Gate(gate)

    def forward(self, x: Any) -> Any:
        self._gate()
        if self.training:
            time.sleep(0.002)
        return self.head(torch.relu(self.body(x)))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._gate()
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._gate()
        return super().load_state_dict(*args, **kwargs)
