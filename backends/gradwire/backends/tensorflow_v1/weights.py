"""The variables of a TensorFlow 1 graph, slots of its optimizer included: read from files, written, copied and put back.

Invariant: the operations for this are added to the graph once. All variables get their values, or none does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from gradwire.backends import weights_file
from gradwire.backends.backend import Array
from gradwire.backends.tensorflow_v1.graph import upstream
from gradwire.backends.tensorflow_v1.programs import Program

Copies: TypeAlias = Mapping[str, Array]

_KINDS = ("VarHandleOp", "VariableV2", "Variable")


def read(path: Path) -> Mapping[str, Array]:
    """Reads arrays by name from a safetensors file. Raises ModelConfigError."""
    return read_saved(path)


def read_saved(path: Path) -> Mapping[str, Array]:
    """Reads a file that `save` wrote, under any name. Raises ModelConfigError."""
    return weights_file.read(path)


def put(variables: Variables, arrays: Mapping[str, Array], source: Path, needed: Any) -> None:
    """Gives variables the arrays of a file, which must have those that ``needed`` is computed from, and may lack others.

    Raises:
        ModelConfigError: Names or shapes differ; nothing has changed.
    """
    ops = upstream([needed])
    own = {name: shape for name, shape in variables.shapes.items() if name in arrays or variables.operation(name) in ops}
    weights_file.check(own, arrays, source)
    variables.assign({**variables.values(), **arrays})


def save(variables: Variables, path: Path) -> None:
    """Writes a safetensors file."""
    weights_file.save(variables.values(), path)


def copies(variables: Variables) -> Copies:
    """Copies all variables to host memory."""
    return variables.values()


def put_back(variables: Variables, before: Copies) -> None:
    """Restores copies."""
    variables.assign(before)


class Variables:
    """All initialised variables of a session's graph, in any of its collections.

    Args:
        session: A ``tf.compat.v1.Session``.
    """

    def __init__(self, session: Any) -> None:
        with session.graph.as_default(), tf.name_scope("gradwire/variables"):
            found = [op for op in session.graph.get_operations() if op.type in _KINDS]
            found = [
                op for op in found if (dtype := tf.as_dtype(op.get_attr("dtype"))).is_floating or dtype.is_integer or dtype.is_bool
            ]
            ready = session.run([_is_initialised(op) for op in found]) if found else []
            self._ops = {op.name: op for op, is_ready in zip(found, ready, strict=True) if is_ready}
            self._uninitialised = {op for op, is_ready in zip(found, ready, strict=True) if not is_ready}
            placeholders = [tf.compat.v1.placeholder(op.get_attr("dtype")) for op in self._ops.values()]
            assigned = [_assigned(op, value) for op, value in zip(self._ops.values(), placeholders, strict=True)]
            self._values = Program(session, [_value(op) for op in self._ops.values()], [])
            self._assign = Program(session, [], placeholders, targets=assigned)
        self.shapes: dict[str, tuple[int, ...]] = {name: array.shape for name, array in self.values().items()}

    def uninitialised(self, tensor: Any) -> list[str]:
        """Names of the variables that a tensor is computed from and that have no value yet."""
        return sorted(op.name for op in upstream([tensor]) & self._uninitialised)

    def operation(self, name: str) -> Any:
        """The operation of a variable."""
        return self._ops[name]

    def values(self) -> dict[str, Array]:
        """The values by name, as copies: a session's results may lie in the variable's own memory."""
        return {name: np.array(value) for name, value in zip(self._ops, self._values(), strict=True)}

    def assign(self, arrays: Mapping[str, Array]) -> None:
        """Sets all variables; ``arrays`` holds one of the right shape for each."""
        self._assign(
            *(np.array(arrays[name], dtype, order="C") for name, dtype in zip(self._ops, self._assign.dtypes, strict=True))
        )


def _is_initialised(op: Any) -> Any:
    if op.type == "VarHandleOp":
        return tf.raw_ops.VarIsInitializedOp(resource=op.outputs[0])
    return tf.raw_ops.IsVariableInitialized(ref=op.outputs[0])


def _value(op: Any) -> Any:
    if op.type == "VarHandleOp":
        return tf.raw_ops.ReadVariableOp(resource=op.outputs[0], dtype=op.get_attr("dtype"))
    return tf.identity(op.outputs[0])


def _assigned(op: Any, value: Any) -> Any:
    if op.type == "VarHandleOp":
        return tf.raw_ops.AssignVariableOp(resource=op.outputs[0], value=value)
    return tf.raw_ops.Assign(ref=op.outputs[0], value=value).op
