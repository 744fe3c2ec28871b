"""What is written down of every call: who asked what of which model, how many rows it was charged, and how it ended.

An entry is made when a call begins and written when it ends, whatever ends it. Where the ledger has no more room, because
its store is gone, no call begins: nobody is served unseen.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from gradwire.server.errors import StoreUnavailable
from gradwire.server.faults import fault
from gradwire.server.store.records import CallRecord, ChargeRecord, Lease
from gradwire.server.store.writer import CallWriter
from gradwire.server.telemetry.counts import Counts
from gradwire.server.telemetry.scope import CALL
from gradwire.server.values.rows import Rows
from gradwire.v1.errors_pb2 import ErrorReason
from gradwire.v1.estimator_pb2 import CallHeader
from gradwire.wire.tensors import MAX_NAME

if TYPE_CHECKING:
    from gradwire.server.telemetry.tracing import CallTrace, Tracing

OK = "OK"
CANCELLED = "CANCELLED"
"""The client cancelled the call, or went away."""

_PREFIX = "ERROR_REASON_"


class Stream(Protocol):
    """The open stream of a call, as far as the ledger sees it.

    Attributes:
        trace: Spans of the call under way.
        reason: Why the server ended the stream; None if it did not.
    """

    trace: CallTrace | None

    @property
    def reason(self) -> Exception | None: ...


class Versioned(Protocol):
    """An estimator, as far as the ledger sees it."""

    @property
    def version(self) -> str: ...


class Charged(Protocol):
    """The granted name that a call is charged under, and its estimator."""

    @property
    def account_name(self) -> str: ...

    @property
    def estimator(self) -> Versioned: ...


class CallRecorder:
    """Where calls are written down.

    Args:
        writer: Brings them to the store.
        server: What this server process is called in it.
        counts: Where they are counted too.
        tracing: Makes their traces; None: nobody does.
    """

    def __init__(self, writer: CallWriter, server: str, counts: Counts | None = None, tracing: Tracing | None = None) -> None:
        self._writer = writer
        self._server = server
        self._counts = counts or Counts()
        self._tracing = tracing

    def entry(self, principal: str, operation: str, stream: Stream | None = None) -> Entry:
        """Begins an entry of a call, on a stream or not. Raises StoreUnavailable if it could not be written."""
        if self._writer.full:
            raise StoreUnavailable(f"calls cannot be written down: {self._writer.problem}; no calls are taken until they can be")
        return Entry(self._writer, self._counts, self._tracing, self._server, principal, operation, stream)


class Entry:
    """One call. A context manager around it.

    Attributes:
        admitted: Served name of the call, once it is admitted; None for a name that the caller may not use.
        model: The name that the caller gave.
        request_id: As the caller gave it.
        rows: Rows that the caller sent.
        charged: Rows that it was charged.
        paid: What was charged by fingerprint, where rows can run out.
        lease: What that was taken of.
        trace: The call's spans; None where it is not traced.
    """

    __slots__ = ("_at_us", "_began_s", "_counts", "_operation", "_principal", "_server", "_stream", "_tracing", "_writer",
                 "admitted", "charged", "lease", "model", "paid", "request_id", "rows", "trace")  # fmt: skip

    def __init__(
        self,
        writer: CallWriter,
        counts: Counts,
        tracing: Tracing | None,
        server: str,
        principal: str,
        operation: str,
        stream: Stream | None,
    ) -> None:
        self._writer = writer
        self._counts = counts
        self._tracing = tracing
        self._server = server
        self._principal = principal
        self._operation = operation
        self._stream = stream
        self._at_us = time.time_ns() // 1000
        self._began_s = time.perf_counter()
        self.admitted: Charged | None = None
        self.model = ""
        self.request_id = ""
        self.rows = 0
        self.charged = Rows()
        self.paid: dict[bytes, Rows] = {}
        self.lease: Lease | None = None
        self.trace: CallTrace | None = None

    def __enter__(self) -> Entry:
        CALL.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        admitted = self.admitted
        seconds = time.perf_counter() - self._began_s
        call = CallRecord(
            at_us=self._at_us,
            server=self._server,
            principal=self._principal,
            model=admitted.account_name if admitted is not None else self.model,
            version="" if admitted is None else admitted.estimator.version,
            operation=self._operation,
            rows=self.rows,
            forward=self.charged.forward,
            backward=self.charged.backward,
            outcome=OK if error is None else _outcome(error, self._stream),
            latency_us=round(seconds * 1e6),
            request_id=self.request_id,
        )
        charges = [
            ChargeRecord(call.principal, call.model, call.request_id, digest, rows.forward, rows.backward, self._at_us, self.lease)
            for digest, rows in self.paid.items()
        ]
        self._writer.append(call, charges)
        self._counts.ended(call.model, call.operation, call.outcome, self.charged, seconds)
        if self.trace is not None:
            self.trace.end(call)
        if error is None:
            CALL.set(None)

    def opened(self, header: CallHeader) -> None:
        """Takes down what the caller says of the call."""
        self.model, self.request_id = header.model[:MAX_NAME], header.request_id
        if self._tracing is not None:
            self.trace = self._tracing.begin(self._operation, header.traceparent, self._at_us)
            if self._stream is not None:
                self._stream.trace = self.trace

    def log_fields(self) -> dict[str, str]:
        """What the log says of it."""
        about = {"principal": self._principal, "model": self.model, "operation": self._operation}
        return {**about, "request_id": self.request_id}


def _outcome(error: BaseException, stream: Stream | None) -> str:
    if isinstance(error, asyncio.CancelledError) and stream is not None:
        # The server may have ended it: its time was over, say.
        error = stream.reason or error
    if not isinstance(error, Exception):
        return CANCELLED
    return str(ErrorReason.Name(fault(error).reason)).removeprefix(_PREFIX)
