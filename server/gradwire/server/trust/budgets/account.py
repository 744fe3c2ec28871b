"""Rows of one principal's budget for one model that this server has leased from the store.

The store decides: it charges leases durably before this server serves their rows from memory. So a kill never lets a
budget be exceeded, and costs at most one lease. Unused rows return to the store: after a while without calls,
and when the server ends.
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
    """Access of accounts to the store, on one thread.

    Args:
        store: Durable counts.
        thread: Executor with one thread, for calls of the store.
        clock: Clock of all budgets of this server.
        lease_rows: Number of rows to lease at a time.
    """

    def __init__(self, store: Store, thread: Executor, clock: SteadyClock, lease_rows: int) -> None:
        self.store = store
        self.clock = clock
        self.lease_rows = lease_rows
        self._thread = thread

    @property
    def exact(self) -> bool:
        """True if every block is charged in the store, and no rows are held in memory."""
        return self.lease_rows == 1

    async def ask(self, function: Callable[..., T], *args: Any) -> T:
        """Calls a function of the store on its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *args))


class Account:
    """Leased rows of one principal for one model on this server.

    Args:
        principal: Principal of the account.
        model: Served name.
        desk: Access to the store.

    Attributes:
        rate: Limit of rows per second.
        asked_s: Loop time when rows were last taken.
    """

    def __init__(self, principal: str, model: str, desk: Desk) -> None:
        self.principal = principal
        self.model = model
        self.desk = desk
        self.rate = RowRate()
        self.asked_s = -math.inf
        self._left = Rows()
        # Lease of the rows in `_left`; None without one.
        self._lease: Lease | None = None
        # Limits that the lease was taken under: other limits may leave less.
        self._limits: BudgetLimits | None = None
        # One request to the store at a time.
        self._busy = asyncio.Lock()
        self._requests: set[asyncio.Task[Any]] = set()

    @property
    def left(self) -> Rows:
        """Rows that this server has leased and not used."""
        return self._left

    def left_of(self, window_start: int) -> Rows:
        """Returns the rows of `left` that count in the window that began at ``window_start``, seconds since 1970."""
        return self._left if self._lease is not None and self._lease.window_start == window_start else Rows()

    async def take(self, rows: Rows, budget: Budget) -> Lease | None:
        """Takes the rows that a budget limits, and returns their lease; None if it limits none of them.

        Raises:
            BudgetSpent: The budget has fewer rows left. None were taken.
            StoreUnavailable: This server holds fewer rows than needed, and the store is unavailable.
        """
        needed = counted(rows, budget)
        if not needed:
            return None
        self.asked_s = asyncio.get_running_loop().time()
        while not self._has(needed, budget):
            await self._finish(self._fetch(needed, budget))
        self._left -= needed
        return self._lease

    async def check(self, rows: Rows, budget: Budget) -> None:
        """Raises BudgetSpent if the store has fewer rows left. Takes none."""
        needed = counted(rows, budget)
        if not needed:
            return
        try:
            await self.desk.ask(self.desk.store.check, self.principal, self.model, needed, budget.limits, self.desk.clock.now_s())
        except BudgetShort as short:
            raise _spent(self, needed, short) from None

    async def take_for(self, charge: ChargeRecord, budget: Budget) -> Lease | None:
        """Takes the rows of one charge in the store; returns None if it was charged before. Raises as `take`."""
        taking = self._start(self.desk.ask(self.desk.store.take_for, charge, budget.limits, self.desk.clock.now_s()))
        try:
            return await asyncio.shield(taking)
        except BudgetShort as short:
            raise _spent(self, Rows(charge.forward, charge.backward), short) from None
        except asyncio.CancelledError:
            taking.add_done_callback(partial(self._undo, charge))
            raise

    def refund_charge(self, charge: ChargeRecord, lease: Lease) -> None:
        """Refunds the rows of `take_for`."""
        self._start(self._sent(self.desk.store.give_back_for, charge, lease))

    def _undo(self, charge: ChargeRecord, taken: asyncio.Task[Lease | None]) -> None:
        """Refunds rows that were taken for a cancelled call."""
        if not taken.cancelled() and taken.exception() is None and (lease := taken.result()) is not None:
            self.refund_charge(charge, lease)

    def refund(self, rows: Rows, lease: Lease | None) -> None:
        """Refunds unused rows of ``lease``."""
        if lease is None or not rows:
            return
        if self._lease is not None and _same_window(self._lease, lease):
            self._left += rows
        else:
            self._start(self._sent(self.desk.store.give_back, lease, rows))

    async def settle(self) -> None:
        """Returns unused rows to the store. Raises StoreUnavailable."""
        await self._finish(self._settle())

    async def close(self) -> None:
        """Settles after all pending requests to the store have ended: afterwards their thread ends."""
        while self._requests:
            await asyncio.wait(self._requests)
        await self.settle()

    def _has(self, needed: Rows, budget: Budget) -> bool:
        return self._current(budget) and needed.within(self._left)

    def _current(self, budget: Budget) -> bool:
        lease = self._lease
        if lease is None or self._limits != budget.limits:
            return False
        return lease.window_end is None or self.desk.clock.now_s() < lease.window_end

    async def _finish(self, request: Coroutine[Any, Any, None]) -> None:
        """Waits for a request to the store. A cancelled caller does not cancel it: the store's result must arrive here."""
        await asyncio.shield(self._start(request))

    def _start(self, request: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(request)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
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
        # Not usable meanwhile; if the store does not accept them, this server keeps them.
        self._left = Rows()
        try:
            await self.desk.ask(self.desk.store.give_back, lease, left)
        except StoreUnavailable as e:
            if not e.uncertain:
                self._left += left
            raise

    async def _sent(self, function: Callable[..., None], *args: Any) -> None:
        """Sends a refund to the store, and logs a failure."""
        try:
            await self.desk.ask(function, *args)
        except StoreUnavailable as e:
            log.warning("rows could not be refunded", extra={"principal": self.principal, "model": self.model, "reason": str(e)})


def counted(rows: Rows, budget: Budget) -> Rows:
    """Returns the rows that a budget limits."""
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
