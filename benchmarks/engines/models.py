"""A model that only waits, so that replicas scale on a machine with few processors."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks.model import Array

ROW_S = 0.002
BATCH_ROWS = 16


def waiting() -> Callable[[Array], Array]:
    """Makes a model that waits two milliseconds a row and returns two numbers for each."""

    def predict(x: Array) -> Array:
        time.sleep(ROW_S * len(x))
        return np.zeros((len(x), 2), np.float32)

    return predict


def waiting_replicas(replicas: int) -> str:
    """Makes its entry in the list of models, in YAML."""
    return f"""
  - name: waiting
    backend: blackbox
    factory: benchmarks.engines.models:waiting
    output: logits
    input_shape: [16]
    nb_classes: 2
    max_batch_rows: {BATCH_ROWS}
    replicas: {{least: {replicas}, cpus: 0.1}}
"""
