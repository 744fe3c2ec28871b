"""Weights as named arrays in a safetensors file, for frameworks that have no file format of their own that is safe to read.

What holds: nothing that is read runs code, and a model gets all of its weights or keeps all that it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from gradwire.backends.backend import Array
from gradwire.backends.errors import ModelConfigError


def read(path: Path) -> dict[str, Array]:
    """Arrays by name. Raises ModelConfigError if the file is not there or not readable."""
    if not path.is_file():
        raise ModelConfigError("weights", f"{path} is not there; expected a .safetensors file")
    try:
        arrays: dict[str, Array] = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as e:
        raise ModelConfigError("weights", f"{path} is not a readable safetensors file: {e}") from e
    return arrays


def save(arrays: Mapping[str, Array], path: Path) -> None:
    """Writes arrays by name. Raises OSError if there is no room for them."""
    safetensors.numpy.save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path)


def check(own: Mapping[str, tuple[int, ...]], given: Mapping[str, Array], source: Path) -> None:
    """Checks that arrays read from ``source`` are what a model with weights of the shapes ``own`` needs.

    Raises:
        ModelConfigError: Some are missing, unexpected or of another shape; all of them are named.
    """
    problems = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {array.shape}, expected {tuple(own[name])}"
            for name, array in given.items()
            if name in own and array.shape != tuple(own[name])
        ],
    }
    if any(problems.values()):
        text = "; ".join(f"{problem}: {', '.join(found)}" for problem, found in problems.items() if found)
        raise ModelConfigError("weights", f"{source} does not fit the model: {text}")
