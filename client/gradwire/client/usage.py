"""Usage: rows that a caller has used, and rows left of its budget."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone

from gradwire.v1 import usage_pb2 as pb
from gradwire.wire.names import ACCESS_NAMES, name_in


@dataclass(frozen=True)
class Usage:
    """Rows used of one served name, and rows left.

    Attributes:
        model: The served name.
        forward: Rows that were predicted, or went forward for a loss, a gradient or activations.
        backward: Rows that gradients came back for; class gradients count one per class.
        left_forward: Forward rows left now, of the total budget and the current window; None: no limit.
        left_backward: Backward rows left now, likewise.
        refills: When the current window ends; None: no windows.
        rows_per_s: Most rows per second, forward and backward together; None: no limit.
        expires: When the grant ends; None: never.
        principal: The principal whose usage this is.
        access: "labels", "scores", "gradients" or "trainer".
    """

    model: str
    forward: int
    backward: int
    left_forward: int | None
    left_backward: int | None
    refills: datetime | None
    rows_per_s: float | None
    expires: datetime | None
    principal: str
    access: str


def usage_of(message: pb.ModelUsage) -> Usage:
    """Reads the usage that a server sent."""
    return Usage(
        model=message.model,
        forward=message.used.forward,
        backward=message.used.backward,
        left_forward=_left(message, "left_forward"),
        left_backward=_left(message, "left_backward"),
        refills=message.window.refills.ToDatetime(timezone.utc) if message.window.HasField("refills") else None,
        rows_per_s=message.budget.rows_per_s or None,
        expires=message.expires.ToDatetime(timezone.utc) if message.HasField("expires") else None,
        principal=message.principal,
        access=name_in(ACCESS_NAMES, message.access),
    )


def _left(message: pb.ModelUsage, name: str) -> int | None:
    limits = [getattr(budget, name) for budget in (message.budget, message.window) if budget.HasField(name)]
    return min(limits, default=None)
