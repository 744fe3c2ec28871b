"""Owners' code of models behind several processes: weights from chance or from a file, and code that ends its process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np


def drawn() -> Any:
    """New weights in each process, which is a mistake of the owner's."""
    return _linear(np.random.default_rng())


def filed(file: str) -> Any:
    """Weights drawn from the seed in a file."""
    return _linear(np.random.default_rng(int(Path(file).read_text())))


def dying(file: str) -> Any:
    """Predictor of the first two columns; ends the process at loading if the file exists."""
    if Path(file).exists():
        os._exit(3)
    return lambda x: x[:, :2]


def _linear(rng: np.random.Generator) -> Any:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(rng.normal(size=(20, 6)), np.arange(20) % 2)
    model.coef_ = rng.normal(size=(1, 6))
    return model
