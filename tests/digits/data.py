"""scikit-learn's digits, and how every fit of them visits the rows.

What holds: a fit over the wire and one in plain framework code that takes `batches` see the same rows in the same order. numpy
alone makes the order, as a served fit does: a permutation an epoch, of the seed's generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

_x, Y = load_digits(return_X_y=True)
X = (_x / 16).astype(np.float32)
NB_TRAINED = 1300
"""Rows that are trained on; the other 497 are held out."""
SETTINGS = {"batch_size": 64, "nb_epochs": 15, "seed": 3}


def batches() -> Iterator[Any]:
    """Indices of the rows of each step, over all epochs."""
    order = np.random.default_rng(SETTINGS["seed"])
    for _ in range(SETTINGS["nb_epochs"]):
        visited = order.permutation(NB_TRAINED)
        for first in range(0, NB_TRAINED, SETTINGS["batch_size"]):
            yield visited[first : first + SETTINGS["batch_size"]]
