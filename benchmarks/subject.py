"""The models that contenders run, with their inputs and the layers that are measured.

Needs numpy alone, and torch where a model is made: the processes of the peers import it too.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.model import CONV_LAYER, DENSE_LAYER, INPUT_SHAPE, NB_CLASSES, Inputs

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Subject:
    """A model.

    Attributes:
        name: Its name in commands.
        title: Its title in reports.
        factory: ``module:function``; makes the same weights every time.
        input_shape: Shape of a row.
        conv_layer: Name of a layer near the inputs, in the module.
        dense_layer: Name of a layer near the outputs.
    """

    name: str
    title: str
    factory: str
    input_shape: tuple[int, ...]
    conv_layer: str
    dense_layer: str

    def module(self) -> nn.Module:
        """Makes the torch module."""
        module, _, function = self.factory.partition(":")
        made: Any = getattr(importlib.import_module(module), function)()
        return made  # type: ignore[no-any-return]  # a factory by its name has no type

    def inputs(self, rows: int, batch_size: int = 128) -> Inputs:
        """Makes the inputs for a number of rows; the same every time."""
        random = np.random.default_rng(rows)
        y = random.integers(0, NB_CLASSES, rows)
        return Inputs(
            x=random.random((rows, *self.input_shape), np.float32),
            y=y,
            one_hot=np.eye(NB_CLASSES, dtype=np.float32)[y],
            cotangent=random.standard_normal((rows, NB_CLASSES), np.float32),
            batch_size=batch_size,
        )


CNN = Subject("cnn", "CNN", "benchmarks.model:cnn", INPUT_SHAPE, CONV_LAYER, DENSE_LAYER)
RESNET = Subject("resnet", "ResNet18", "benchmarks.resnet:resnet18", (3, 32, 32), "0", "8")
SUBJECTS = {subject.name: subject for subject in (CNN, RESNET)}
