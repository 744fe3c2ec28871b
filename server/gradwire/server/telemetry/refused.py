"""Calls that end with an error of the caller's, or for want of room: so many a second are logged, of more only the number.

The ledger has all that were begun, with the same request ids; those that were refused before are counted here.
"""

from __future__ import annotations

import logging
import time

from grpc import StatusCode

from gradwire.server.telemetry.counts import Traffic
from gradwire.server.telemetry.scope import CALL
from gradwire.v1.errors_pb2 import ErrorReason
from gradwire.wire.status import Fault

log = logging.getLogger("gradwire.server")

_LOGGED_PER_S = 20
"""So that callers who repeat a mistake do not fill a disk."""
_PREFIX = "ERROR_REASON_"


class Refusals:
    """Logs them. Used on one thread."""

    def __init__(self) -> None:
        self._second = 0
        self._count = 0

    def take(self, peer: str, told: Fault, traffic: Traffic) -> None:
        """Logs one, with what the caller was told, and counts it if the ledger does not."""
        if told.code is StatusCode.UNAUTHENTICATED:
            return  # `identity.callers` has logged why, which the caller is not told, and counted it
        outcome = str(ErrorReason.Name(told.reason)).removeprefix(_PREFIX)
        if CALL.get() is None:
            traffic.refused[outcome] = traffic.refused.get(outcome, 0) + 1
        second = int(time.monotonic())
        if second != self._second:
            if self._count > _LOGGED_PER_S:
                log.info("more calls were refused", extra={"number": self._count - _LOGGED_PER_S})
            self._second, self._count = second, 0
        self._count += 1
        if self._count <= _LOGGED_PER_S:
            log.info("call refused", extra={"peer": peer, "outcome": outcome, "reason": told.text})


REFUSALS = Refusals()
