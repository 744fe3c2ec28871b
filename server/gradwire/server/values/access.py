"""Access levels and the operations of each. Each level includes the one before."""

from __future__ import annotations

from typing import Literal, TypeAlias

from gradwire.backends.capabilities import Operation

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
"""Operations by level. ``labels`` and ``scores`` differ in the answer of predict."""


def least_access(operation: Operation) -> AccessLevel:
    """Returns the lowest level that includes the operation, for error texts."""
    return next(level for level, operations in GRANTED.items() if operation in operations)
