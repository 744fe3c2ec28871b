"""The database's side: leases of budgets, and the ledger's batches.

What holds: an account has one errand to the store at a time, a server's errands go one after the other, and a call begins only
where the ledger has room for it.
"""

from __future__ import annotations

from collections import deque

from benchmarks.scaling.costs import BATCH_CALLS, FLUSH_S, SWITCH_S
from benchmarks.scaling.events import Action, Clock, Station
from benchmarks.scaling.site import Site


class Database:
    """Where leases and batches are written, by all servers.

    Args:
        clock: Of the simulation.
        site: Whose database it is.
    """

    def __init__(self, clock: Clock, site: Site) -> None:
        store = site.store
        self.store = store
        self.leases = Station(clock, 1 if store.one_writer else min(site.principals, store.leases_at_once))
        self.ledger = self.leases if store.one_writer else Station(clock)


class Desk:
    """A server's errands for leases: one thread.

    Args:
        clock: Of the simulation.
        database: Of the site.
        interpreter: Of the server's process.
    """

    def __init__(self, clock: Clock, database: Database, interpreter: Station) -> None:
        self._clock = clock
        self._thread = Station(clock)
        self._database = database
        self._interpreter = interpreter

    def fetch(self, then: Action) -> None:
        """Takes one lease."""
        store = self._database.store

        def ask() -> None:
            self._database.leases.serve(store.lease_s, answered)

        def answered() -> None:
            # A thread of its own, which the event loop cannot keep waiting for long.
            self._interpreter.acquire(lambda: self._clock.after(store.lease_loop_s, done), SWITCH_S)

        def done() -> None:
            self._interpreter.release()
            self._thread.release()
            then()

        self._thread.acquire(ask)


class Account:
    """What a server holds of one principal's budget.

    Args:
        desk: Of the server.
        lease_rows: As configured.
        left: Rows that it holds at the beginning.
    """

    def __init__(self, desk: Desk, lease_rows: int, left: int) -> None:
        self._desk = desk
        self._lease_rows = lease_rows
        self._left = left
        self._waiting: deque[tuple[int, Action]] = deque()

    def take(self, rows: int, then: Action) -> None:
        """Takes rows for a call, and a lease before where there are not enough."""
        if not self._waiting and rows <= self._left:
            self._left -= rows
            then()
            return
        self._waiting.append((rows, then))
        if len(self._waiting) == 1:
            self._fetch()

    def _fetch(self) -> None:
        rows, _ = self._waiting[0]
        got = max(rows - self._left, self._lease_rows)

        def arrived() -> None:
            self._left += got
            while self._waiting and self._waiting[0][0] <= self._left:
                rows, then = self._waiting.popleft()
                self._left -= rows
                then()
            if self._waiting:
                self._fetch()

        self._desk.fetch(arrived)


class Writer:
    """A server's thread that writes the ledger, as it is after a long time.

    Where calls come faster than the database writes them, the ledger of a server that has run for long is full; its room only puts
    that off. So a full one begins full. It writes a part of a batch at a time, which takes that part of its time: servers then
    take turns within seconds, in place of minutes, and get as much.

    Args:
        clock: Of the simulation.
        database: Of the site.
        full: Whether it begins full; else it has room without end, and what it takes of the database is worked out by `share`.
        servers: How many write to the database.
    """

    ROOM_CALLS = 90_000

    def __init__(self, clock: Clock, database: Database, full: bool, servers: int) -> None:
        self._clock = clock
        self._database = database
        self._bounded = full
        self._pending = self.ROOM_CALLS if full else 0
        self._under_way = 0
        self._part = max(4, BATCH_CALLS // servers)
        if full:
            self._write()

    @property
    def full(self) -> bool:
        """Whether no call should begin."""
        return self._bounded and self._pending + self._under_way >= self.ROOM_CALLS

    def begin(self) -> None:
        """A call has begun, which will be written."""
        self._under_way += 1

    def append(self) -> None:
        """A call has ended."""
        self._under_way -= 1
        if self._bounded:
            self._pending += 1

    def _write(self) -> None:
        calls = min(self._pending, self._part)
        if not calls:
            self._clock.after(FLUSH_S, self._write)
            return

        def written() -> None:
            self._pending -= calls
            self._write()

        self._database.ledger.serve(calls / self._database.store.most_calls_per_s, written)


def share(site: Site, calls_per_s: float) -> float:
    """How much of what the database can write the ledger takes, with batches as large as need be."""
    return calls_per_s / site.store.most_calls_per_s
