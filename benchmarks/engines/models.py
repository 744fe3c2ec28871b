"""A model that waits: what several replicas can do at the same time, whatever the number of this machine's processors."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks.model import Array

ROW_S = 0.002
BATCH_ROWS = 16


def waiting() -> Callable[[Array], Array]:
    """Takes two milliseconds a row, and answers two numbers each."""

    def predict(x: Array) -> Array:
        time.sleep(ROW_S * len(x))
        return np.zeros((len(x), 2), np.float32)

    return predict


def waiting_replicas(replicas: int) -> str:
    """Its entry in a configuration."""
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
