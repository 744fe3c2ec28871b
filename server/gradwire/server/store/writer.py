"""Writer of the ledger: the event loop appends calls in a microsecond, and a thread writes them in batches.

Every appended call is pending, flushed or lost, and counted as such; none is written twice. While the store is unavailable,
calls are kept and retried, until the buffer is full: then `full` is true, so that a server can refuse calls rather than
answer unrecorded ones.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TypeAlias

from gradwire.server.errors import StoreUnavailable
from gradwire.server.store.records import CallRecord, ChargeRecord
from gradwire.server.store.store import Store

_log = logging.getLogger(__name__)

_Entry: TypeAlias = tuple[CallRecord, Sequence[ChargeRecord]]
_ROOM_LEFT = 0.9
"""Fraction of the buffer above which no call should begin: running calls must still fit."""


class CallWriter:
    """Writes calls to one store. `append` and the properties are for any thread, and never block."""

    def __init__(
        self, store: Store, *, period_s: float = 0.5, batch_calls: int = 1000, capacity_calls: int = 100_000, retry_s: float = 5.0
    ) -> None:
        """Starts the thread.

        Args:
            store: Store of the ledger; it must stay open until the writer is closed.
            period_s: Longest time that a call stays in memory while the store works.
            batch_calls: Calls per batch; a full batch is written before the period ends.
            capacity_calls: Size of the buffer in calls, about 1 kB each.
            retry_s: Longest pause between attempts while the store is unavailable.
        """
        self._store = store
        self._period_s = period_s
        self._batch_calls = batch_calls
        self._capacity = capacity_calls
        self._retry_s = retry_s
        self._pending: deque[_Entry] = deque()
        self._in_hand: list[_Entry] = []
        self._name = uuid.uuid4().hex
        self._number = 0
        self._flushed = 0
        self._lost = 0
        self._problem: str | None = None
        self._wake = threading.Event()
        self._done = threading.Condition()
        self._closing_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="gradwire-ledger", daemon=True)
        self._thread.start()

    def append(self, call: CallRecord, charges: Sequence[ChargeRecord] = ()) -> None:
        """Adds an ended call and the charges of its request id. If the buffer is full, the call is lost."""
        if len(self._pending) >= self._capacity or self._closing_at is not None:
            self._lose(1)
            return
        self._pending.append((call, charges))
        if len(self._pending) >= self._batch_calls and not self._wake.is_set():
            self._wake.set()

    @property
    def full(self) -> bool:
        """True if no call should begin, because it might not be written."""
        return len(self._pending) >= self._capacity * _ROOM_LEFT

    @property
    def pending(self) -> int:
        """Number of calls not written yet."""
        return len(self._pending) + len(self._in_hand)

    @property
    def flushed(self) -> int:
        """Number of calls in the store."""
        return self._flushed

    @property
    def lost(self) -> int:
        """Number of calls that are lost."""
        return self._lost

    @property
    def problem(self) -> str | None:
        """Reason that the last attempt to write failed, for health checks and logs; None after success."""
        return self._problem

    def flush(self, timeout_s: float) -> bool:
        """Waits until all calls appended so far are written; False after the timeout."""
        until = time.monotonic() + timeout_s
        with self._done:
            wanted = self._flushed + self._lost + self.pending
            self._wake.set()
            while self._flushed + self._lost < wanted:
                left = until - time.monotonic()
                if left <= 0 or not self._thread.is_alive():
                    return False
                self._wake.set()
                self._done.wait(min(left, 0.05))
        return True

    def close(self, timeout_s: float) -> int:
        """Writes pending calls, and ends the thread. Returns the number of calls lost in total.

        Args:
            timeout_s: Time after which pending calls are lost.
        """
        if self._closing_at is None:
            self._closing_at = time.monotonic() + timeout_s
            self._wake.set()
        # An attempt that still waits for the database at the deadline is abandoned: the process is about to end.
        self._thread.join(max(0.0, self._closing_at - time.monotonic()) + 0.1)
        left = self.pending
        if left and self._thread.is_alive():
            _log.error("%d calls were not written to the ledger when the server ended: %s", left, self._problem or "out of time")
        return self._lost + left

    def __enter__(self) -> CallWriter:
        """Returns the running writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the writer."""
        self.close(10.0)

    def _run(self) -> None:
        pause_s = 0.05
        while True:
            if not self._in_hand:
                self._wait()
                self._take()
            if not self._in_hand:
                if self._closing_at is not None:
                    return
                continue
            try:
                self._write()
                pause_s = 0.05
            except StoreUnavailable as e:
                if self._problem is None:
                    _log.warning("calls cannot be written to the ledger; they are kept and retried: %s", e)
                self._problem = str(e)
                if self._out_of_time():
                    return
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, self._retry_s)
            except Exception:
                _log.exception("a batch of %d calls cannot be written to the ledger; retrying each call alone", len(self._in_hand))
                self._write_each()

    def _wait(self) -> None:
        if len(self._pending) < self._batch_calls and self._closing_at is None:
            self._wake.wait(self._period_s)
        self._wake.clear()

    def _sleep(self, pause_s: float) -> None:
        """Pauses, but ends early when the writer is closed. Appended calls do not end the pause."""
        until = time.monotonic() + pause_s
        while (left := until - time.monotonic()) > 0:
            if self._closing_at is not None:
                left = min(left, 0.1)
                until = min(until, time.monotonic() + left)
            time.sleep(min(left, 0.05))

    def _out_of_time(self) -> bool:
        if self._closing_at is None or time.monotonic() < self._closing_at:
            return False
        left = self.pending
        with self._done:
            self._lost += left
            self._in_hand = []
            self._pending.clear()
        _log.error("%d calls were not written to the ledger when the server ended: %s", left, self._problem)
        return True

    def _take(self) -> None:
        self._number += 1
        # `flush` counts pending calls, and must not see a call in both places, or in neither.
        with self._done:
            while self._pending and len(self._in_hand) < self._batch_calls:
                self._in_hand.append(self._pending.popleft())

    def _write(self) -> None:
        """Writes a batch, which keeps its number until it is known to be written."""
        self._send(self._in_hand, self._number)
        if self._problem is not None:
            _log.warning("calls are written to the ledger again; %d are pending", self.pending)
            self._problem = None
        self._count(len(self._in_hand))

    def _write_each(self) -> None:
        for entry in list(self._in_hand):
            self._number += 1
            while True:
                try:
                    self._send([entry], self._number)
                    self._count(1)
                except StoreUnavailable as e:
                    self._problem = str(e)
                    if self._out_of_time():
                        return
                    self._sleep(self._retry_s)
                    continue
                except Exception as e:
                    _log.error("a call cannot be written to the ledger and is lost: %r: %s", entry[0], e)
                    with self._done:
                        self._lost += 1
                        self._in_hand = self._in_hand[1:]
                break

    def _send(self, entries: list[_Entry], number: int) -> None:
        charges = [charge for _, its in entries for charge in its]
        self._store.write_calls([call for call, _ in entries], charges, writer=self._name, number=number)

    def _count(self, written: int) -> None:
        with self._done:
            self._flushed += written
            self._in_hand = self._in_hand[written:]
            self._done.notify_all()

    def _lose(self, count: int) -> None:
        with self._done:
            self._lost += count
