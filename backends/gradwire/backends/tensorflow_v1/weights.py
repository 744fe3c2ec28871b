"""The variables of a TensorFlow 1 graph, slots of its optimizer included: as named arrays, and back.

What holds: the operations for it are added to the graph once. All variables get their values, or none does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from gradwire.backends import weights_file
from gradwire.backends.backend import Array
from gradwire.backends.tensorflow_v1.graph import upstream
from gradwire.backends.tensorflow_v1.programs import Program

_KINDS = ("VarHandleOp", "VariableV2", "Variable")


class Variables:
    """All variables of a session's graph that are initialised, whatever collections they are in.

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
            self._read = Program(session, [_value(op) for op in self._ops.values()], [])
            self._assign = Program(session, [], placeholders, targets=assigned)
        self.shapes: dict[str, tuple[int, ...]] = {name: array.shape for name, array in self.read().items()}

    def uninitialised(self, tensor: Any) -> list[str]:
        """Names of the variables that a tensor is computed from and that have no value yet."""
        return sorted(op.name for op in upstream([tensor]) & self._uninitialised)

    def read(self) -> dict[str, Array]:
        """Their values by name, as copies: what a session answers may lie in the variable's own memory."""
        values = self._read()
        return {name: np.array(value) for name, value in zip(self._ops, values, strict=True)}

    def put(self, arrays: Mapping[str, Array]) -> None:
        """Gives each its value; ``arrays`` holds one of the right shape for each."""
        self._assign(
            *(np.array(arrays[name], dtype, order="C") for name, dtype in zip(self._ops, self._assign.dtypes, strict=True))
        )

    def load(self, path: Path, needed: Any) -> None:
        """Takes values from a file that `save` wrote; those that ``needed`` is computed from must be in it, others may be.

        Raises:
            ModelConfigError: The file does not fit; nothing has changed.
        """
        arrays = weights_file.read(path)
        ops = upstream([needed])
        own = {name: shape for name, shape in self.shapes.items() if name in arrays or self._ops[name] in ops}
        weights_file.check(own, arrays, path)
        self.put({**self.read(), **arrays})

    def save(self, path: Path) -> None:
        """Writes a safetensors file."""
        weights_file.save(self.read(), path)


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
