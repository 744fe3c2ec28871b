"""Setup of a model to measure: its configuration for gradwire, and its plain code."""

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
        name: Its name in reports.
        keys: Keys of the model in gradwire's configuration, without its name.
        plain: The plain code. Its operations are those that are measured.
        inputs: Makes the inputs for a number of rows.
        conv_layer: gradwire's name of the layer whose activations are measured.
        art: ART's estimator of the same model in this process.
        not_arts: Operations in which ART's results differ from the framework's; docs/semantics.md has them.
        art_alone: True if ART takes seconds a call: two calls of it are measured, after the others.
        same_outputs: True if the model is the CNN, whose outputs are known.
        environment: Folder of programs of the Python environment in which the server runs.
        plain_module: Module whose ``setups`` have the plain code in that environment, if not this framework's.
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
    """Makes the configuration of a factory that reads the CNN's weights from a file."""
    return {"path": path, "args": {"weights": str(weights)}}


def cnn_keys(channels_last: bool) -> dict[str, Any]:
    """Makes the configuration that the CNN has in all frameworks."""
    return {"input_shape": list(CHANNELS_LAST if channels_last else (1, 28, 28)), "nb_classes": NB_CLASSES}


def channels_last(rows: int, **kwargs: Any) -> Inputs:
    """Makes the inputs of `benchmarks.model` as ``(n, 28, 28, 1)``."""
    given = inputs(rows, **kwargs)
    return dataclasses.replace(given, x=given.x.reshape(rows, *CHANNELS_LAST))
