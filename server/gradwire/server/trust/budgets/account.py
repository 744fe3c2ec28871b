"""The rows that one principal may still query of one model, as far as this server has taken them from the store.

The store decides: rows are charged there, durably, in leases, before this server serves them from memory. So a budget is
never exceeded, whatever is killed, and short by at most one lease. Rows that are not used go back: when nobody has asked
for a while, and when the server ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeVar

from gradwire.server.errors import BudgetShort, BudgetSpent, StoreUnavailable
from gradwire.server.store.records import BudgetLimits, ChargeRecord, Lease
from gradwire.server.store.store import Store
from gradwire.server.trust.budgets.rate import RowRate
from gradwire.server.trust.grants.grant import Budget
from gradwire.server.values.clock import SteadyClock
from gradwire.server.values.rows import Rows

log = logging.getLogger("gradwire.server")

T = TypeVar("T")


class Desk:
    """Where accounts get their rows: the store, asked on a thread of its own.

    Args:
        store: The durable counts.
        thread: Runs what waits for the store; one thread.
        clock: Of all budgets of this server.
        lease_rows: How many rows to take at a time.
    """

    def __init__(self, store: Store, thread: Executor, clock: SteadyClock, lease_rows: int) -> None:
        self.store = store
        self.clock = clock
        self.lease_rows = lease_rows
        self._thread = thread

    @property
    def exact(self) -> bool:
        """Whether every block is charged in the store by itself, and nothing is held in memory."""
        return self.lease_rows == 1

    async def ask(self, function: Callable[..., T], *args: Any) -> T:
        """Calls the store on its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *args))


class Account:
    """What is left to one principal of one model on this server.

    Args:
        principal: Whose.
        model: The served name.
        desk: Where more rows come from.

    Attributes:
        rate: How fast it has been used.
        asked_s: Loop time when rows were last taken.
    """

    def __init__(self, principal: str, model: str, desk: Desk) -> None:
        self.principal = principal
        self.model = model
        self.desk = desk
        self.rate = RowRate()
        self.asked_s = -math.inf
        self._left = Rows()
        # What `_left` is of; None while it is nothing.
        self._lease: Lease | None = None
        # The budget that it was taken under: less may be left of another.
        self._limits: BudgetLimits | None = None
        # One errand to the store at a time.
        self._busy = asyncio.Lock()
        self._errands: set[asyncio.Task[Any]] = set()

    @property
    def left(self) -> Rows:
        """Rows that this server holds and has not used."""
        return self._left

    def left_of(self, window_start: int) -> Rows:
        """Those of `left` that count in the window that began then, seconds since 1970."""
        return self._left if self._lease is not None and self._lease.window_start == window_start else Rows()

    async def take(self, rows: Rows, budget: Budget) -> Lease | None:
        """Takes rows that a budget counts, and returns what they are of; None if it counts none of them.

        Raises:
            BudgetSpent: So many are not left. None were taken.
            StoreUnavailable: More than this server holds are needed, and the store cannot be asked.
        """
        needed = counted(rows, budget)
        if not needed:
            return None
        self.asked_s = asyncio.get_running_loop().time()
        while not self._has(needed, budget):
            await self._errand(self._fetch(needed, budget))
        self._left -= needed
        return self._lease

    async def check(self, rows: Rows, budget: Budget) -> None:
        """Raises BudgetSpent if so many rows are not left to anybody now. Takes none."""
        needed = counted(rows, budget)
        if not needed:
            return
        try:
            await self.desk.ask(self.desk.store.check, self.principal, self.model, needed, budget.limits, self.desk.clock.now_s())
        except BudgetShort as short:
            raise _spent(self, needed, short) from None

    async def take_for(self, charge: ChargeRecord, budget: Budget) -> Lease | None:
        """Takes the rows of a charge in the store alone; None if it has been charged before. Raises as `take`."""
        taking = self._start(self.desk.ask(self.desk.store.take_for, charge, budget.limits, self.desk.clock.now_s()))
        try:
            return await asyncio.shield(taking)
        except BudgetShort as short:
            raise _spent(self, Rows(charge.forward, charge.backward), short) from None
        except asyncio.CancelledError:
            taking.add_done_callback(partial(self._undo, charge))
            raise

    def give_for(self, charge: ChargeRecord, lease: Lease) -> None:
        """Undoes `take_for`."""
        self._start(self._told(self.desk.store.give_back_for, charge, lease))

    def _undo(self, charge: ChargeRecord, taken: asyncio.Task[Lease | None]) -> None:
        """What nobody waited for in the end was not wanted."""
        if not taken.cancelled() and taken.exception() is None and (lease := taken.result()) is not None:
            self.give_for(charge, lease)

    def give(self, rows: Rows, lease: Lease | None) -> None:
        """Takes back rows that were taken of ``lease`` and not used."""
        if lease is None or not rows:
            return
        if self._lease is not None and _same_window(self._lease, lease):
            self._left += rows
        else:
            self._start(self._told(self.desk.store.give_back, lease, rows))

    async def settle(self) -> None:
        """Gives back to the store what is not used. Raises StoreUnavailable."""
        await self._errand(self._settle())

    async def close(self) -> None:
        """As `settle`, when all that is under way to the store has arrived: afterwards there is no thread for it."""
        while self._errands:
            await asyncio.wait(self._errands)
        await self.settle()

    def _has(self, needed: Rows, budget: Budget) -> bool:
        return self._current(budget) and needed.within(self._left)

    def _current(self, budget: Budget) -> bool:
        lease = self._lease
        if lease is None or self._limits != budget.limits:
            return False
        return lease.window_end is None or self.desk.clock.now_s() < lease.window_end

    async def _errand(self, errand: Coroutine[Any, Any, None]) -> None:
        """Waits for an errand. It goes on if the caller is cancelled: what the store has counted must arrive here."""
        await asyncio.shield(self._start(errand))

    def _start(self, errand: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    async def _fetch(self, needed: Rows, budget: Budget) -> None:
        async with self._busy:
            if self._has(needed, budget):
                return
            if not self._current(budget):
                await self._return_left()
            least = needed.beyond(self._left)
            wish = Rows(*(max(part, self.desk.lease_rows) if part else 0 for part in (least.forward, least.backward)))
            try:
                lease = await self.desk.ask(
                    self.desk.store.take, self.principal, self.model, least, wish, budget.limits, self.desk.clock.now_s()
                )
            except BudgetShort as short:
                raise _spent(self, needed, short) from None
            got = lease.rows
            if self._lease is not None and _same_window(self._lease, lease):
                lease = replace(lease, rows=self._lease.rows + lease.rows)
            else:
                await self._return_left()
            self._left += got
            self._lease, self._limits = lease, budget.limits

    async def _settle(self) -> None:
        async with self._busy:
            await self._return_left()

    async def _return_left(self) -> None:
        lease, left = self._lease, self._left
        if lease is None or not left:
            return
        # Not to be used meanwhile; if the store does not take them, they are this server's as before.
        self._left = Rows()
        try:
            await self.desk.ask(self.desk.store.give_back, lease, left)
        except StoreUnavailable as e:
            if not e.uncertain:
                self._left += left
            raise

    async def _told(self, function: Callable[..., None], *args: Any) -> None:
        """Tells the store what nobody waits for."""
        try:
            await self.desk.ask(function, *args)
        except StoreUnavailable as e:
            log.warning("rows could not be given back", extra={"principal": self.principal, "model": self.model, "reason": str(e)})


def counted(rows: Rows, budget: Budget) -> Rows:
    """Those of the rows that a budget counts."""
    forward, backward = budget.counts
    if (forward or not rows.forward) and (backward or not rows.backward):
        return rows
    return Rows(rows.forward if forward else 0, rows.backward if backward else 0)


def _same_window(one: Lease, other: Lease) -> bool:
    return (one.window_s, one.window_start, one.restocks) == (other.window_s, other.window_start, other.restocks)


def _spent(account: Account, needed: Rows, short: BudgetShort) -> BudgetSpent:
    needs = getattr(needed, short.direction)
    left = short.left + getattr(account.left, short.direction)
    per = "" if short.window_s is None else f" in each {short.window_s} s"
    if short.refills_at is None:
        ends = "it does not refill; ask the server's operator for more"
    else:
        ends = f"it refills at {datetime.fromtimestamp(short.refills_at, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    whose = f"{account.principal}'s budget for {account.model!r}"
    problem = f"{whose} has {left} {short.direction} rows left of {short.limit}{per}, and the call needs {needs}; {ends}"
    return BudgetSpent(problem, f"{account.principal}/{account.model}/{short.direction}")
