"""Small models of the kinds that owners have; what configurations under test name as their factory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn


def mlp(nb_inputs: int = 6, nb_outputs: int = 4, dtype: str = "float64", seed: int | None = 0, end: str = "") -> nn.Sequential:
    """Smooth everywhere, so that finite differences hold; ``end`` names a last layer, e.g. ``LogSoftmax``."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(nb_inputs, 8), nn.Tanh(), nn.Linear(8, nb_outputs))
    if end:
        module.append(getattr(nn, end)(**({"dim": 1} if end.endswith("oftmax") else {})))
    return module.to(getattr(torch, dtype))


def cnn(nb_classes: int = 5, seed: int = 0) -> nn.Sequential:
    """Rows 1x8x8, float32."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(36, 16),
            nn.ReLU(),
            nn.Linear(16, nb_classes),
        )


def normalised(dropout: float = 0.0) -> nn.Sequential:
    """With batch normalisation, float64."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4)).double()


class Recurrent(nn.Module):
    """Rows (time, 3)."""

    def __init__(self, kind: str = "LSTM", dropout: float = 0.5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = getattr(nn, kind)(3, 5, batch_first=True, num_layers=2, dropout=dropout)
        self.head = nn.Linear(5, 4)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Embedded(nn.Module):
    """Rows of 7 tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.tokens(x).mean(1))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


class Inner(nn.Module):
    """Modules inside modules, one called twice, one never, one that works in place, and several outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True))
        self.turn = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)
        self.double()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.turn(torch.tanh(self.turn(self.body(x))))
        return hidden, self.head(hidden)


class InPlaceFirst(nn.Module):
    """Writes into its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.mul_(2.0).sub_(1.0)
        return self.inner(x)


class Vector(nn.Module):
    """One number a row, without an axis for it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1)


class Turn(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


class Turned(nn.Module):
    """Layer whose output is a view with swapped axes, and whose gradient repeats one number."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = Turn()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.turn(x).sum(2)


class Detached(nn.Module):
    """Without a way back to the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.round().detach())


class Caching(nn.Module):
    """Keeps a tensor that it makes in its first call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()
        self.scale: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            self.scale = torch.full((4,), 2.0, dtype=x.dtype)
        return self.inner(x) * self.scale


class OwnBuffer(nn.Module):
    """Returns a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("answer", torch.ones(2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer


_ONE = mlp()


def always_the_same() -> nn.Module:
    return _ONE


def not_a_module() -> int:
    return 3


def backbone_frozen() -> nn.Module:
    module = mlp()
    module[0].requires_grad_(False)
    return module


def brier(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return ((torch.softmax(outputs, 1) - targets) ** 2).sum(1)


def brier_loss() -> Any:
    """A loss of the owner's own."""
    return brier


def mean_loss() -> Any:
    """One that cannot be taken row by row."""
    return lambda outputs, targets: brier(outputs, targets).mean()


class LinearAscent:
    """A black box with a method ``predict``."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.stack([x.sum(1), -x.sum(1)], axis=1)
