"""The variables of a TensorFlow or Keras model: read from files, written to files, copied and put back.

Invariant: a model gets all of its weights or keeps all that it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gradwire.backends import weights_file
from gradwire.backends.backend import Array
from gradwire.backends.errors import ModelConfigError

Named: TypeAlias = Mapping[str, Any]
"""Variables by name."""
Copies: TypeAlias = list[Array]


def read(path: Path) -> Mapping[str, Array]:
    """Reads arrays by name from a .safetensors file. Raises ModelConfigError."""
    if path.suffix != ".safetensors":
        raise ModelConfigError(
            "weights",
            f"{path} ends in {path.suffix!r}; expected .safetensors. A factory may read any other file itself, and a SavedModel's "
            "folder is for saved_model",
        )
    return read_saved(path)


def read_saved(path: Path) -> Mapping[str, Array]:
    """Reads a file that `save` wrote, under any name. Raises ModelConfigError."""
    return weights_file.read(path)


def put(named: Named, arrays: Mapping[str, Array], source: Path) -> None:
    """Gives a model its weights. Raises ModelConfigError, before anything changes, if names or shapes differ."""
    weights_file.check({name: tuple(variable.shape) for name, variable in named.items()}, arrays, source)
    for name, variable in named.items():
        variable.assign(arrays[name].astype(variable.dtype.as_numpy_dtype))


def save(named: Named, path: Path) -> None:
    """Writes a safetensors file; half precision as float32, which holds it exactly."""
    weights_file.save({name: _as_numpy_type(variable.numpy()) for name, variable in named.items()}, path)


def copies(variables: Sequence[Any]) -> Copies:
    """Copies variables to host memory."""
    return [variable.numpy() for variable in variables]


def put_back(variables: Sequence[Any], before: Copies) -> None:
    """Restores copies in place, so that compiled functions and an optimizer keep their hold of the variables."""
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)


def _as_numpy_type(array: Array) -> Array:
    return array if array.dtype.kind in "biu" or array.dtype.itemsize >= 4 else array.astype(np.float32)
