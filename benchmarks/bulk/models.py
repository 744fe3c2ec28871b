"""Models that compute next to nothing, so that only transport is measured. Rows are 3 x 224 x 224."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from benchmarks.model import NB_CLASSES, Array

ROW_SHAPE = (3, 224, 224)
ROW_NBYTES = 4 * 3 * 224 * 224


def identity() -> Callable[[Array], Array]:
    """Makes a model that returns its input as ``(n, 150528)``: as many bytes back as there."""
    return lambda x: x.reshape(len(x), -1)


def means() -> nn.Sequential:
    """Makes a model that returns 10 numbers computed from the means of the channels."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ROW_SHAPE[0], NB_CLASSES))


MODELS = f"""
  - name: identity
    backend: blackbox
    factory: benchmarks.bulk.models:identity
    output: logits
    input_shape: {list(ROW_SHAPE)}
    nb_classes: {ROW_NBYTES // 4}
  - name: means
    backend: torch
    factory: benchmarks.bulk.models:means
    output: logits
    input_shape: {list(ROW_SHAPE)}
    nb_classes: {NB_CLASSES}
"""
