"""Calls on their way into the ledger: appended by the event loop in a microsecond, written by a thread of their own.

Every appended call is pending, flushed or lost, and is counted as one of the three; none is written twice. When the store is gone
calls are kept and tried again, until there is no more room: then `full` is true, so that a server can refuse calls rather than
answer some that nobody will ever see.
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
"""Beyond this part of the room no call should begin: those under way must still fit."""


class CallWriter:
    """Writes to one store until it is closed. `append` and the properties may be used from any thread, and never wait."""

    def __init__(
        self, store: Store, *, period_s: float = 0.5, batch_calls: int = 1000, capacity_calls: int = 100_000, retry_s: float = 5.0
    ) -> None:
        """Starts the thread.

        Args:
            store: Where to write; it must stay open until the writer is closed.
            period_s: How long a call may be kept in memory, with a store that works.
            batch_calls: So many are written at once, before the period is over too.
            capacity_calls: Calls that are kept at most, about 1 kB each.
            retry_s: The longest pause between attempts at a store that does not work.
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
        """Takes a call that has ended, and what it was charged under its request id. Beyond the room, the call is lost."""
        if len(self._pending) >= self._capacity or self._closing_at is not None:
            self._lose(1)
            return
        self._pending.append((call, charges))
        if len(self._pending) >= self._batch_calls and not self._wake.is_set():
            self._wake.set()

    @property
    def full(self) -> bool:
        """Whether no call should begin, because it might not be written."""
        return len(self._pending) >= self._capacity * _ROOM_LEFT

    @property
    def pending(self) -> int:
        """Calls that are not written yet."""
        return len(self._pending) + len(self._in_hand)

    @property
    def flushed(self) -> int:
        """Calls that are in the store."""
        return self._flushed

    @property
    def lost(self) -> int:
        """Calls that never will be."""
        return self._lost

    @property
    def problem(self) -> str | None:
        """Why the last attempt to write failed, for health checks and logs; None if it did not."""
        return self._problem

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything that was appended before has been written; False if the time was too short."""
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
        """Writes what is pending, and ends the thread. Returns how many calls were lost in all.

        Args:
            timeout_s: What is not written after so long is lost.
        """
        if self._closing_at is None:
            self._closing_at = time.monotonic() + timeout_s
            self._wake.set()
        # An attempt that waits for the database at the deadline is left to itself: the process is about to end.
        self._thread.join(max(0.0, self._closing_at - time.monotonic()) + 0.1)
        left = self.pending
        if left and self._thread.is_alive():
            _log.error("%d calls were not written to the ledger when the server ended: %s", left, self._problem or "out of time")
        return self._lost + left

    def __enter__(self) -> CallWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
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
                    _log.warning("calls cannot be written to the ledger; they are kept and tried again: %s", e)
                self._problem = str(e)
                if self._out_of_time():
                    return
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, self._retry_s)
            except Exception:
                _log.exception("a batch of %d calls cannot be written to the ledger; each is tried alone", len(self._in_hand))
                self._write_each()

    def _wait(self) -> None:
        if len(self._pending) < self._batch_calls and self._closing_at is None:
            self._wake.wait(self._period_s)
        self._wake.clear()

    def _sleep(self, pause_s: float) -> None:
        """A pause that ends early when the writer is to be closed, though not for every call that is appended."""
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
        # Whoever counts what is pending, flush, must not see a call in both places, or in neither.
        with self._done:
            while self._pending and len(self._in_hand) < self._batch_calls:
                self._in_hand.append(self._pending.popleft())

    def _write(self) -> None:
        """A number stays with its batch until that is known to be written."""
        self._send(self._in_hand, self._number)
        if self._problem is not None:
            _log.warning("calls are written to the ledger again; %d are waiting", self.pending)
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
