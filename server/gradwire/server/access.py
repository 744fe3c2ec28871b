"""What each level of access lets a caller do. The levels include one another."""

from __future__ import annotations

from typing import Literal, TypeAlias

from gradwire.backends.capabilities import Operation
from gradwire.v1.model_pb2 import ACCESS_GRADIENTS, ACCESS_LABELS, ACCESS_SCORES, ACCESS_TRAINER, Access

AccessLevel: TypeAlias = Literal["labels", "scores", "gradients", "trainer"]

_LABELS = frozenset({Operation.PREDICT})
_GRADIENTS = _LABELS | {
    Operation.LOSS,
    Operation.LOSS_GRADIENT,
    Operation.CLASS_GRADIENT,
    Operation.GET_ACTIVATIONS,
    Operation.VJP,
}
GRANTED: dict[AccessLevel, frozenset[Operation]] = {
    "labels": _LABELS,
    "scores": _LABELS,
    "gradients": _GRADIENTS,
    "trainer": frozenset(Operation),
}
"""Operations by level. ``labels`` and ``scores`` differ in what predict answers."""

CONTRACT: dict[AccessLevel, Access] = {
    "labels": ACCESS_LABELS,
    "scores": ACCESS_SCORES,
    "gradients": ACCESS_GRADIENTS,
    "trainer": ACCESS_TRAINER,
}


def least_access(operation: Operation) -> AccessLevel:
    """The lowest level that has the operation, for error texts."""
    return next(level for level, operations in GRANTED.items() if operation in operations)
