"""Log of refused calls: errors of callers, and calls for which the server has no room.

The ledger holds every call that began, under the same request id. Calls refused before they began are counted here.
"""

from __future__ import annotations

import logging

from grpc import StatusCode

from gradwire.server.telemetry.counts import Traffic
from gradwire.server.telemetry.limited_log import LimitedLog
from gradwire.server.telemetry.scope import CALL
from gradwire.v1.errors_pb2 import ErrorReason
from gradwire.wire.status import Fault

_PREFIX = "ERROR_REASON_"


class Refusals:
    """Refused calls of a process, logged and counted. For use on one thread."""

    def __init__(self) -> None:
        self._log = LimitedLog(logging.INFO, "call refused", "more calls were refused")

    def take(self, peer: str, fault: Fault, traffic: Traffic) -> None:
        """Logs a refused call, and counts it in ``traffic`` if the ledger does not.

        Args:
            peer: Address of the caller.
            fault: Error that the caller receives.
            traffic: Counts of calls that are not in the ledger.
        """
        if fault.code is StatusCode.UNAUTHENTICATED:
            return  # `identity.callers` has counted it, and logged the reason, which the caller does not receive
        outcome = str(ErrorReason.Name(fault.reason)).removeprefix(_PREFIX)
        if CALL.get() is None:
            traffic.refused[outcome] = traffic.refused.get(outcome, 0) + 1
        self._log.log(peer=peer, outcome=outcome, reason=fault.text)


REFUSALS = Refusals()
