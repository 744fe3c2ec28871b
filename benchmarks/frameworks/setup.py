"""What a framework's module gives to be measured: how gradwire is told to serve a model, and how one calls it by hand."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders.contender import Contender
from benchmarks.measure import MakeInputs
from benchmarks.model import NB_CLASSES, Inputs, inputs

PLAIN = "plain"
OPERATIONS = ("predict", "loss", "loss_gradient", "class_gradient_rows", "class_gradient_all", "activations_conv")

CHANNELS_LAST = (28, 28, 1)


@dataclass(frozen=True)
class Setup:
    """One model.

    Attributes:
        name: As in reports.
        keys: Of the model in gradwire's configuration; its name is added.
        plain: What one would write by hand. Its operations are those that are measured.
        inputs: Of so many rows.
        conv_layer: What gradwire calls the layer whose activations are measured.
        art: ART's estimator of the same model in this process.
        not_arts: Operations in which ART computes something else than the framework does; docs/semantics.md says what.
        art_alone: ART takes seconds a call: two calls of it are measured, after the others.
        same_outputs: The model is the CNN, whose outputs are known.
        environment: The folder of programs of the Python environment in which the server runs.
        plain_module: Whose ``setups`` have the plain code in that environment, if not this framework's.
    """

    name: str
    keys: Mapping[str, Any]
    plain: Callable[[], AbstractContextManager[Contender]]
    inputs: MakeInputs = inputs
    conv_layer: str = ""
    art: Callable[[], Contender] | None = None
    not_arts: Collection[str] = ()
    art_alone: bool = False
    same_outputs: bool = True
    environment: Path = Path(sys.executable).parent
    plain_module: str = ""


def factory(path: str, weights: Path) -> dict[str, Any]:
    """The configuration of a factory that reads the CNN's weights from a file."""
    return {"path": path, "args": {"weights": str(weights)}}


def cnn_keys(channels_last: bool) -> dict[str, Any]:
    """Configuration that is the same for the CNN in all frameworks."""
    return {"input_shape": list(CHANNELS_LAST if channels_last else (1, 28, 28)), "nb_classes": NB_CLASSES}


def channels_last(rows: int, **kwargs: Any) -> Inputs:
    """The inputs of `benchmarks.model`, as ``(n, 28, 28, 1)``."""
    given = inputs(rows, **kwargs)
    return dataclasses.replace(given, x=given.x.reshape(rows, *CHANNELS_LAST))
