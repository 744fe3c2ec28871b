"""Torch modules: convolutions, batch normalisation, modules in modules, one output, recurrent; defences and weighted losses."""

from __future__ import annotations

import torch
from conformance.case import NEURAL, Case, Halve, uniform
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


_ADAM = {"path": "torch.optim.Adam", "args": {"lr": 0.01}}
_CROSS_ENTROPY = "torch.nn.CrossEntropyLoss"

CASES = {
    "torch-cnn": Case(
        dict(backend="torch", factory=smooth_cnn, loss=_CROSS_ENTROPY, optimizer=_ADAM, input_shape=[1, 8, 8], nb_classes=10,
             clip_values=[0.0, 1.0], channels_first=True, preprocessing={"mean": 0.4, "std": 0.5}),
        uniform(1, 8, 8), NEURAL, layers=("0", "1", "2", "3", "4", "5", "6"),
    ),
    "torch-float32": Case(
        dict(backend="torch", factory=float32_cnn, loss=_CROSS_ENTROPY, optimizer=_ADAM, input_shape=[3, 6, 6], nb_classes=5,
             channels_first=True, preprocessing={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}),
        uniform(3, 6, 6, dtype="float32"), NEURAL, layers=("0", "1", "2", "3", "4", "5", "6", "7"),
        # Single precision: the loss is known to 1e-7, so that steps must be large, and differences are good to 1e-3.
        rtol=5e-3, step=2e-2, repeatable=False,
    ),
    "torch-defended": Case(
        dict(backend="torch", factory=Deep, loss=_CROSS_ENTROPY, optimizer=_ADAM, input_shape=[6], nb_classes=4,
             preprocessing={"mean": 0.1, "std": 0.7}, preprocessing_defences=[Halve]),
        uniform(6), NEURAL, layers=("body", "head"),
    ),
    "torch-weighted-sum": Case(
        dict(backend="torch", factory=Deep, optimizer=_ADAM, input_shape=[6], nb_classes=4,
             loss={"path": _CROSS_ENTROPY, "args": {"reduction": "sum", "label_smoothing": 0.1}}),
        uniform(6), NEURAL, layers=("body", "head"),
    ),
    "torch-binary": Case(
        dict(backend="torch", factory=binary, loss="torch.nn.BCEWithLogitsLoss", optimizer=_ADAM, input_shape=[5], nb_classes=2),
        uniform(5), NEURAL, layers=("0", "1", "2"), single_output=True,
    ),
    "torch-recurrent": Case(
        dict(backend="torch", factory=recurrent, loss=_CROSS_ENTROPY, optimizer=_ADAM, input_shape=[7, 3], nb_classes=4),
        uniform(7, 3), NEURAL, layers=("rnn", "head"),
    ),
    "torch-regression": Case(
        dict(backend="torch", factory=regression, loss="torch.nn.MSELoss", optimizer=_ADAM, task="regression",
             input_shape=[diabetes.NB_FEATURES], nb_classes=1, preprocessing={"mean": 0.4, "std": 0.2}),
        diabetes.rows, NEURAL, layers=("0", "1", "2"), targets=diabetes.targets(diabetes.Y),
    ),
    "torch-regression-several": Case(
        dict(backend="torch", factory={"path": "conformance.cases.torch:regression", "args": {"outputs": 2}}, optimizer=_ADAM,
             loss={"path": "torch.nn.HuberLoss", "args": {"reduction": "sum"}}, task="regression",
             input_shape=[diabetes.NB_FEATURES], nb_classes=2, preprocessing_defences=[Halve]),
        diabetes.rows, NEURAL, layers=("0", "1", "2"), targets=diabetes.targets(diabetes.Y_AND_SQUARE),
    ),
}  # fmt: skip
