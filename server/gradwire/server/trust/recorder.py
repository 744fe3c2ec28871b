"""Recording of every call in the ledger: principal, operation, model, charged rows and outcome.

An entry is created when a call begins and written when it ends, whatever ends it. If the ledger is full, because
its store is unavailable, no call begins: no call is served unrecorded.
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
"""Outcome of a call that its client cancelled or abandoned."""

_PREFIX = "ERROR_REASON_"


class Stream(Protocol):
    """The part of an open stream that the recorder uses.

    Attributes:
        trace: Spans of the current call.
    """

    trace: CallTrace | None

    @property
    def reason(self) -> Exception | None:
        """Reason that the server ended the stream; None if it did not."""
        ...


class Versioned(Protocol):
    """The part of an estimator that the recorder uses."""

    @property
    def version(self) -> str:
        """Version of the weights."""
        ...


class Charged(Protocol):
    """The admitted name that a call is charged under, and its estimator."""

    @property
    def account_name(self) -> str:
        """Name that the call is charged under."""
        ...

    @property
    def estimator(self) -> Versioned:
        """Estimator that answers the call."""
        ...


class CallRecorder:
    """Records calls in the ledger, counts them and traces them.

    Args:
        writer: Writer of the ledger.
        server: Name of this server process in the ledger.
        counts: Counts for metrics.
        tracing: Traces of calls; None: no traces.
    """

    def __init__(self, writer: CallWriter, server: str, counts: Counts | None = None, tracing: Tracing | None = None) -> None:
        self._writer = writer
        self._server = server
        self._counts = counts or Counts()
        self._tracing = tracing

    def entry(self, principal: str, operation: str, stream: Stream | None = None) -> Entry:
        """Begins the entry of a call, on a stream or not. Raises StoreUnavailable if the ledger is full."""
        if self._writer.full:
            raise StoreUnavailable(f"the ledger is full, so no calls are accepted until it can be written: {self._writer.problem}")
        return Entry(self._writer, self._counts, self._tracing, self._server, principal, operation, stream)


class Entry:
    """Entry of one call. A context manager around it.

    Attributes:
        admitted: Served name of the call, once it is admitted; None for a name that the caller may not use.
        model: Name that the caller gave.
        request_id: Request id that the caller gave.
        rows: Rows that the caller sent.
        charged: Charged rows.
        paid: Charged rows by fingerprint, where rows are limited.
        lease: Lease of the charged rows.
        trace: Spans of the call; None if it is not traced.
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
        """Makes the call the current one of its task."""
        CALL.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Writes the entry, with the outcome of the call."""
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
        """Records the header of the call, and begins its trace."""
        self.model, self.request_id = header.model[:MAX_NAME], header.request_id
        if self._tracing is not None:
            self.trace = self._tracing.begin(self._operation, header.traceparent, self._at_us)
            if self._stream is not None:
                self._stream.trace = self.trace

    def log_fields(self) -> dict[str, str]:
        """Returns the fields of the call for the log."""
        about = {"principal": self._principal, "model": self.model, "operation": self._operation}
        return {**about, "request_id": self.request_id}


def _outcome(error: BaseException, stream: Stream | None) -> str:
    if isinstance(error, asyncio.CancelledError) and stream is not None:
        # The server may have ended it, for example at its timeout.
        error = stream.reason or error
    if not isinstance(error, Exception):
        return CANCELLED
    return str(ErrorReason.Name(fault(error).reason)).removeprefix(_PREFIX)
