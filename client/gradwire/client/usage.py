"""What a caller has used."""

from __future__ import annotations

from dataclasses import dataclass

from gradwire.v1 import usage_pb2 as pb


@dataclass(frozen=True)
class Usage:
    """Rows used of one served name, and what is left.

    Attributes:
        model: The served name.
        forward: Rows that were predicted, or went forward for a loss, a gradient or activations.
        backward: Rows that gradients came back for; of class gradients, one for each class.
        left_forward: None: no limit.
        left_backward: None: no limit.
    """

    model: str
    forward: int
    backward: int
    left_forward: int | None
    left_backward: int | None


def usage_of(message: pb.ModelUsage) -> Usage:
    """The usage that a server sent."""
    budget = message.budget
    return Usage(
        message.model,
        message.used.forward,
        message.used.backward,
        budget.left_forward if budget.HasField("left_forward") else None,
        budget.left_backward if budget.HasField("left_backward") else None,
    )
