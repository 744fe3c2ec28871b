"""What is written down of every call: who asked what of which model, how many rows it was charged, and how it ended.

An entry is made when a call begins and written when it ends, whatever ends it. Where the ledger has no more room, because
its store is gone, no call begins: nobody is served unseen.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import TYPE_CHECKING

from gradwire.server.faults import fault
from gradwire.server.grants.granted import Granted
from gradwire.server.store.errors import StoreUnavailable
from gradwire.server.store.records import CallRecord, ChargeRecord
from gradwire.server.store.writer import LedgerWriter
from gradwire.server.usage import Rows
from gradwire.v1.errors_pb2 import ErrorReason

if TYPE_CHECKING:
    from gradwire.server.streams import OpenStream

OK = "OK"
CANCELLED = "CANCELLED"
"""The client cancelled the call, or went away."""

_PREFIX = "ERROR_REASON_"


class Ledger:
    """Where calls are written down.

    Args:
        writer: Brings them to the store.
        server: What this server process is called in it.
    """

    def __init__(self, writer: LedgerWriter, server: str) -> None:
        self._writer = writer
        self._server = server

    def entry(self, principal: str, operation: str, stream: OpenStream | None = None) -> Entry:
        """Begins an entry of a call, on a stream or not. Raises StoreUnavailable if it could not be written."""
        if self._writer.full:
            raise StoreUnavailable(f"calls cannot be written down: {self._writer.problem}; no calls are taken until they can be")
        return Entry(self._writer, self._server, principal, operation, stream)


class Entry:
    """One call. A context manager around it.

    Attributes:
        granted: What it is about, once that is known; a call of a name that is not there for the caller has none.
        model: The name that the caller gave.
        request_id: As the caller gave it.
        rows: Rows that the caller sent.
        charged: Rows that it was charged.
        paid: What was charged by fingerprint, where rows can run out.
    """

    __slots__ = ("_at_us", "_began_s", "_operation", "_principal", "_server", "_stream", "_writer",
                 "charged", "granted", "model", "paid", "request_id", "rows")  # fmt: skip

    def __init__(self, writer: LedgerWriter, server: str, principal: str, operation: str, stream: OpenStream | None) -> None:
        self._writer = writer
        self._server = server
        self._principal = principal
        self._operation = operation
        self._stream = stream
        self._at_us = time.time_ns() // 1000
        self._began_s = time.perf_counter()
        self.granted: Granted | None = None
        self.model = ""
        self.request_id = ""
        self.rows = 0
        self.charged = Rows()
        self.paid: dict[bytes, Rows] = {}

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        granted = self.granted
        call = CallRecord(
            at_us=self._at_us,
            server=self._server,
            principal=self._principal,
            model=granted.account_name if granted is not None else self.model,
            version="" if granted is None else granted.estimator.version,
            operation=self._operation,
            rows=self.rows,
            forward=self.charged.forward,
            backward=self.charged.backward,
            outcome=OK if error is None else _outcome(error, self._stream),
            latency_us=round((time.perf_counter() - self._began_s) * 1e6),
            request_id=self.request_id,
        )
        charges = [
            ChargeRecord(call.principal, call.model, call.request_id, digest, rows.forward, rows.backward, self._at_us)
            for digest, rows in self.paid.items()
        ]
        self._writer.append(call, charges)


def _outcome(error: BaseException, stream: OpenStream | None) -> str:
    if isinstance(error, asyncio.CancelledError) and stream is not None:
        # The server may have ended it: its time was over, say.
        error = stream.reason or error
    if not isinstance(error, Exception):
        return CANCELLED
    return str(ErrorReason.Name(fault(error).reason)).removeprefix(_PREFIX)
