"""Error of malformed data on the wire."""

from __future__ import annotations

from gradwire.v1.errors_pb2 import ErrorReason


class WireError(Exception):
    """Data received, or about to be sent, violates the contract.

    Args:
        reason: One of `ErrorReason`.
        text: The given value and the expected one.
    """

    def __init__(self, reason: ErrorReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
