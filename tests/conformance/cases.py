"""What the conformance body runs on: one served model a backend and kind, and what must hold of it.

Models are small, smooth where gradients are compared with finite differences, and float64 where the framework can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from torch import nn

from models import Recurrent

PREDICT = frozenset({"predict"})
TRAINED = frozenset({"fit", "save", "clone_for_refitting"})
GRADIENTS = frozenset({"loss", "loss_gradient", "class_gradient", "vjp"})
NEURAL = PREDICT | TRAINED | GRADIENTS | {"get_activations", "fit_generator"}


@dataclass(frozen=True)
class Case:
    """One served model.

    Attributes:
        config: Its entry in a server's configuration.
        rows: ``make(n, seed)`` gives inputs ``(n, *input_shape)``.
        operations: What its card must show to a trainer.
        rtol: Relative error against finite differences, and of rows computed in other company; by precision.
        scores: Whether class gradients are those of predict's columns.
        repeatable: Whether a fit with a seed can be repeated; dropout draws from the process's own generator.
        layers: Names of layers, in order, if there are any.
        step: Of finite differences; by precision.
        single_output: Whether two classes have one output.
    """

    config: dict[str, Any]
    rows: Callable[[int, int], Any]
    operations: frozenset[str]
    rtol: float = 1e-6
    scores: bool = True
    repeatable: bool = True
    layers: tuple[str, ...] = ()
    step: float = 1e-5
    single_output: bool = False

    @property
    def nb_classes(self) -> int:
        return int(self.config["nb_classes"])

    def labels(self, n: int, seed: int = 0) -> Any:
        return np.random.default_rng(seed).integers(0, self.nb_classes, n)


def uniform(*shape: int, dtype: str = "float64") -> Callable[[int, int], Any]:
    return lambda n, seed: np.random.default_rng(seed).uniform(0.05, 0.95, (n, *shape)).astype(dtype)


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
    return Recurrent("GRU", dropout=0.0)


def iris_logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True))


def digits_svc() -> SVC:
    x, y = load_digits(return_X_y=True)
    return SVC(gamma=0.02).fit(x[:400] / 16, y[:400])


def digits_forest() -> RandomForestClassifier:
    x, y = load_digits(return_X_y=True)
    return RandomForestClassifier(10, random_state=0).fit(x[:400] / 16, y[:400])


def centroids() -> Callable[[Any], Any]:
    """A black box: softmax of minus the distances to four points."""
    points = np.random.default_rng(0).normal(size=(4, 6))

    def predict(x: Any) -> Any:
        scores = -((x[:, None, :] - points) ** 2).sum(-1)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)

    return predict


class Halve:
    """A defence with a gradient of its own: inputs are halved before standardisation."""

    apply_fit = True
    apply_predict = True

    def __call__(self, x: Any, y: Any = None) -> tuple[Any, Any]:
        return x / 2, y

    def estimate_gradient(self, x: Any, grad: Any) -> Any:
        return grad / 2


_ADAM = {"path": "torch.optim.Adam", "args": {"lr": 0.01}}
_CROSS_ENTROPY = "torch.nn.CrossEntropyLoss"

CASES: dict[str, Case] = {
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
    "sklearn-logistic": Case(
        dict(backend="sklearn", factory=iris_logistic, input_shape=[4], nb_classes=3, preprocessing={"mean": 0.2, "std": 0.3}),
        uniform(4), PREDICT | TRAINED | GRADIENTS,
    ),
    "sklearn-svc": Case(
        dict(backend="sklearn", factory=digits_svc, input_shape=[64], nb_classes=10),
        uniform(64), PREDICT | TRAINED | GRADIENTS - {"vjp"}, scores=False,
    ),
    "sklearn-forest": Case(
        dict(backend="sklearn", factory=digits_forest, input_shape=[8, 8], nb_classes=10), uniform(8, 8), PREDICT | TRAINED
    ),
    "blackbox": Case(dict(backend="blackbox", factory=centroids, input_shape=[6], nb_classes=4), uniform(6), PREDICT),
}  # fmt: skip


def with_operation(operation: str, where: Callable[[Case], bool] = lambda case: True) -> pytest.MarkDecorator:
    """Runs a test on the cases that have an operation, and for which ``where`` holds."""
    return pytest.mark.parametrize("name", [name for name, case in CASES.items() if operation in case.operations and where(case)])


def served() -> dict[str, dict[str, Any]]:
    """What a server of all cases serves: each as a trainer's, and one under every access."""
    models = {name: {**case.config, "access": "trainer"} for name, case in CASES.items()}
    for access in ("labels", "scores", "gradients"):
        models[f"torch-cnn-{access}"] = {"same_as": "torch-cnn", "access": access}
    return models
