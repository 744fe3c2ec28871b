"""What a peer can get wrong on the wire, before any of it reaches a model."""

from __future__ import annotations

from gradwire.v1.errors_pb2 import ErrorReason


class WireError(Exception):
    """Something sent, or about to be sent, that the contract does not allow.

    Args:
        reason: Of `ErrorReason`.
        text: What was given and what is right.
    """

    def __init__(self, reason: ErrorReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
