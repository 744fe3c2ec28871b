"""Models trained on scikit-learn's digits, here and behind a server."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from gradwire.client import Server, connect
from gradwire.server import serving

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC
    from torch import nn


class Digits(NamedTuple):
    """Rows ``(n, 1, 8, 8)``, float32 in [0, 1], and their classes ``(n,)``; the first 1,400 are for training."""

    x: np.ndarray
    y: np.ndarray

    def test(self, n: int) -> Digits:
        return Digits(self.x[1400 : 1400 + n], self.y[1400 : 1400 + n])


@pytest.fixture(scope="session")
def digits() -> Digits:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return Digits((x / 16).astype(np.float32).reshape(-1, 1, 8, 8), y.astype(np.int64))


@pytest.fixture(scope="session")
def cnn(digits: Digits) -> nn.Module:
    """Over 90 % of test digits right after two seconds of training, and easy to fool."""
    import torch
    from torch import nn

    # More threads sum in another order from call to call.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    x, y = torch.from_numpy(digits.x[:1400]), torch.from_numpy(digits.y[:1400])
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    for _ in range(15):
        for rows in torch.randperm(1400).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
    return module.eval()


@pytest.fixture(scope="session")
def logistic(digits: Digits) -> LogisticRegression:
    """Digits 0 and 1: with more classes ART's gradients are wrong (tests/backends/sklearn)."""
    from sklearn.linear_model import LogisticRegression

    x, y = two_digits(digits, 300)
    return LogisticRegression().fit(x, y)


@pytest.fixture(scope="session")
def svc(digits: Digits) -> SVC:
    """Digits 0 and 1, as for `logistic`."""
    from sklearn.svm import SVC

    x, y = two_digits(digits, 300)
    # Said, because ART takes the default of scikit-learn 1.9, "deprecated", for true.
    return SVC(kernel="rbf", probability=False).fit(x, y)


def two_digits(digits: Digits, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Zeros and ones: float64 ``(n, 64)`` and their classes."""
    chosen = np.flatnonzero(digits.y < 2)[:n]
    return digits.x[chosen].reshape(-1, 64).astype(np.float64), digits.y[chosen]


@pytest.fixture(scope="session")
def server(cnn: nn.Module, logistic: LogisticRegression, svc: SVC) -> Iterator[Server]:
    from torch import nn

    images: dict[str, Any] = {"input_shape": [1, 8, 8], "nb_classes": 10, "clip_values": [0.0, 1.0]}
    vectors: dict[str, Any] = {"input_shape": [64], "nb_classes": 2, "clip_values": [0.0, 1.0], "backend": "sklearn"}
    models = {
        "cnn": {
            "backend": "torch",
            "factory": lambda: copy.deepcopy(cnn),
            # The layout that the local module has: attacks are compared to the last bit.
            "memory_format": "contiguous",
            "loss": "torch.nn.CrossEntropyLoss",
            **images,
        },
        "cnn-scores": {"same_as": "cnn", "access": "scores"},
        "cnn-labels": {"same_as": "cnn", "access": "labels"},
        "cnn-probabilities": {
            "backend": "torch",
            "factory": lambda: nn.Sequential(copy.deepcopy(cnn), nn.Softmax(dim=1)),
            "memory_format": "contiguous",
            "access": "scores",
            **images,
        },
        "logistic": {"factory": lambda: logistic, **vectors},
        "svc": {"factory": lambda: svc, **vectors},
    }
    with serving(models) as address, connect(address) as connected:
        yield connected
