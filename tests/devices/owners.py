"""What owners of models behind several processes have written: weights from chance or from a file, and code that dies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np


def drawn() -> Any:
    """Weights that are drawn anew in each process, which is a mistake."""
    return _linear(np.random.default_rng())


def filed(file: str) -> Any:
    """Weights that are those of the file's number, when it is read."""
    return _linear(np.random.default_rng(int(Path(file).read_text())))


def dying(file: str) -> Any:
    """Two columns; ends the process at loading if there is a file."""
    if Path(file).exists():
        os._exit(3)
    return lambda x: x[:, :2]


def _linear(rng: np.random.Generator) -> Any:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(rng.normal(size=(20, 6)), np.arange(20) % 2)
    model.coef_ = rng.normal(size=(1, 6))
    return model
