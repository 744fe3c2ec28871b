"""The variables of a TensorFlow or Keras model: in files, and as values to go back to.

What holds: a model gets all of its weights or keeps all that it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from gradwire.backends import weights_file
from gradwire.backends.backend import Array

Named: TypeAlias = Mapping[str, Any]
"""Variables by name."""


def put(named: Named, arrays: Mapping[str, Array], source: Path) -> None:
    """Gives a model its weights. Raises ModelConfigError, before anything changes, if names or shapes differ."""
    weights_file.check({name: tuple(variable.shape) for name, variable in named.items()}, arrays, source)
    for name, variable in named.items():
        variable.assign(arrays[name].astype(variable.dtype.as_numpy_dtype))


def save(named: Named, path: Path) -> None:
    """Writes a safetensors file; half precision as float32, which holds it exactly."""
    weights_file.save({name: _in_numpys_types(variable.numpy()) for name, variable in named.items()}, path)


def values(variables: Sequence[Any]) -> list[Array]:
    """Copies, in host memory."""
    return [variable.numpy() for variable in variables]


def put_back(variables: Sequence[Any], before: Sequence[Array]) -> None:
    """In place, so that compiled functions and an optimizer keep their hold of the variables."""
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)


def _in_numpys_types(array: Array) -> Array:
    return array if array.dtype.kind in "biu" or array.dtype.itemsize >= 4 else array.astype(np.float32)
