"""A torch module for digits, fitted by torch alone."""

from __future__ import annotations

from typing import Any

import torch
from digits import data
from torch import nn


def net() -> nn.Module:
    """1x8x8 to 10 logits."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 32), nn.ReLU(), nn.Linear(32, 10))


def plain(x: Any, y: Any, held_out: Any) -> Any:
    module, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.003)
    for rows in data.batches():
        optimizer.zero_grad()
        loss(module(torch.from_numpy(x[rows])), torch.from_numpy(y[rows])).backward()
        optimizer.step()
    with torch.no_grad():
        return module(torch.from_numpy(held_out)).numpy().argmax(1)


MODELS = {
    "torch": (
        dict(backend="torch", factory=net, loss="torch.nn.CrossEntropyLoss", input_shape=[1, 8, 8],
             optimizer={"path": "torch.optim.Adam", "args": {"lr": 0.003}}),
        plain,
    )
}  # fmt: skip
