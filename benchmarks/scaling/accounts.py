"""The database's side of the model: leases of budgets, and batches of the ledger.

An account fetches one lease at a time, a server fetches its leases one after the other, and a call begins only if the ledger has
room for it.
"""

from __future__ import annotations

from collections import deque

import simpy

from benchmarks.scaling.costs import BATCH_CALLS, FLUSH_S, SWITCH_S
from benchmarks.scaling.site import Site
from benchmarks.scaling.station import Station, Steps


class Database:
    """The database in which all servers write leases and batches.

    Args:
        env: The simulation.
        site: The site that the database belongs to.
    """

    def __init__(self, env: simpy.Environment, site: Site) -> None:
        store = site.store
        self.store = store
        self.leases = Station(env, 1 if store.one_writer else min(site.principals, store.leases_at_once))
        self.ledger = self.leases if store.one_writer else Station(env)


class Desk:
    """One server's thread that fetches leases.

    Args:
        env: The simulation.
        database: The site's database.
        interpreter: The interpreter of the server's process.
    """

    def __init__(self, env: simpy.Environment, database: Database, interpreter: Station) -> None:
        self._env = env
        self._thread = Station(env)
        self._database = database
        self._interpreter = interpreter

    def fetch(self) -> Steps:
        """Takes one lease."""
        store = self._database.store
        turn = self._thread.request()
        yield turn
        yield from self._database.leases.serve(store.lease_s)
        # A thread of its own, which the event loop cannot keep waiting for long.
        interpreter = yield from self._interpreter.request_within(SWITCH_S)
        yield self._env.timeout(store.lease_loop_s)
        yield self._interpreter.release(interpreter)
        yield self._thread.release(turn)


class Account:
    """The part of one principal's budget that a server holds.

    Args:
        env: The simulation.
        desk: The server's thread that fetches leases.
        lease_rows: Rows of a lease, as configured.
        left: Rows that the server holds at the beginning.
    """

    def __init__(self, env: simpy.Environment, desk: Desk, lease_rows: int, left: int) -> None:
        self._env = env
        self._desk = desk
        self._lease_rows = lease_rows
        self._left = left
        self._waiting: deque[tuple[int, simpy.Event]] = deque()

    def take(self, rows: int) -> Steps:
        """Takes rows for a call; waits for a lease if too few are left."""
        if not self._waiting and rows <= self._left:
            self._left -= rows
            return
        paid = self._env.event()
        self._waiting.append((rows, paid))
        if len(self._waiting) == 1:
            self._env.process(self._fetch())
        yield paid

    def _fetch(self) -> Steps:
        while self._waiting:
            rows, _ = self._waiting[0]
            leased = max(rows - self._left, self._lease_rows)
            yield from self._desk.fetch()
            self._left += leased
            while self._waiting and self._waiting[0][0] <= self._left:
                rows, paid = self._waiting.popleft()
                self._left -= rows
                paid.succeed()


class Writer:
    """A server's thread that writes the ledger, in its steady state.

    If calls come faster than the database writes them, the ledger of a server that has run for long is full; its room only delays
    that, so a full ledger begins full. The thread writes a part of a batch at a time and needs that part of a batch's time: servers
    then take turns within seconds in place of minutes, with the same throughput.

    Args:
        env: The simulation.
        database: The site's database.
        full: True if the ledger begins full. Otherwise its room is unlimited, and `share` works out its load on the database.
        servers: Servers that write to the database.
    """

    ROOM_CALLS = 90_000

    def __init__(self, env: simpy.Environment, database: Database, full: bool, servers: int) -> None:
        self._env = env
        self._database = database
        self._bounded = full
        self._pending = self.ROOM_CALLS if full else 0
        self._under_way = 0
        self._part = max(4, BATCH_CALLS // servers)
        if full:
            env.process(self._write())

    @property
    def full(self) -> bool:
        """True if no call should begin."""
        return self._bounded and self._pending + self._under_way >= self.ROOM_CALLS

    def begin(self) -> None:
        """Reserves room for a call that begins."""
        self._under_way += 1

    def append(self) -> None:
        """Queues a call that has ended for writing."""
        self._under_way -= 1
        if self._bounded:
            self._pending += 1

    def _write(self) -> Steps:
        while True:
            calls = min(self._pending, self._part)
            if not calls:
                yield self._env.timeout(FLUSH_S)
                continue
            yield from self._database.ledger.serve(calls / self._database.store.most_calls_per_s)
            self._pending -= calls


def share(site: Site, calls_per_s: float) -> float:
    """Computes the ledger's share of the database's write capacity, with batches as large as needed."""
    return calls_per_s / site.store.most_calls_per_s
