"""Weights as named arrays in a safetensors file, for frameworks without a safe file format of their own.

Reading a file never runs code, and a file is checked as a whole before a model takes its weights.
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
    """Reads arrays by name. Raises ModelConfigError if the file does not exist or is not readable."""
    if not path.is_file():
        raise ModelConfigError("weights", f"{path} does not exist; expected a .safetensors file")
    try:
        arrays: dict[str, Array] = safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as e:
        raise ModelConfigError("weights", f"{path} is not a readable safetensors file: {e}") from e
    return arrays


def save(arrays: Mapping[str, Array], path: Path) -> None:
    """Writes arrays by name. Raises OSError if the disk is full."""
    safetensors.numpy.save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path)


def check(own: Mapping[str, tuple[int, ...]], given: Mapping[str, Array], source: Path) -> None:
    """Checks arrays read from ``source`` against the names and shapes of a model's ``own`` weights.

    Raises:
        ModelConfigError: Arrays are missing, unexpected or of another shape; the error names all of them.
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
        text = "; ".join(f"{problem}: {', '.join(names)}" for problem, names in problems.items() if names)
        raise ModelConfigError("weights", f"{source} does not fit the model: {text}")
