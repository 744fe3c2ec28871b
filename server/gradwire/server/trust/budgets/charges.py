"""What each call pays: before its work, once, and only for what is computed.

A call is charged whole before its first block is computed, so that it is not broken off half-way for want of rows; what
is then not computed is given back. A call that is made again under its request id does not pay again for blocks that the
id has paid for already: a block is known by its fingerprint, so another question under the same id is another charge.
Attempts under one id are let in one after the other: whoever sends an id again has given up on the attempt before, whose
connection may have died unnoticed, and which therefore gives way.

What two servers have charged under one id, because the second attempt came before the first was written down, the store
gives back when it is (see `store.calls`).

With ``lease_rows`` 1 each block is charged by itself, in the store, in one transaction with its request id: then nothing is
held here that a crash could lose.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gradwire.server.store.records import ChargeRecord, Lease
from gradwire.server.trust.budgets.account import Account, counted
from gradwire.server.trust.grants.grant import Budget
from gradwire.server.values.rows import Rows

_GIVING_WAY_S = 0.005
"""How long an attempt takes to end, about."""

_NONE = Rows()

_ATTEMPTS = 32
"""What a request id has paid for is answered so often. A model whose answers are drawn anew each time would otherwise be asked for
nothing as often as one likes; a client that loses its connection that often in one call pays twice."""

_REMEMBERED_BLOCKS = 20_000
"""Kept by each account, about 5 MB: at a thousand small calls a second the last twenty seconds' worth, and always the last call."""


@dataclass(eq=False, slots=True)
class Paid:
    """What one request id has paid for: rows by a block's fingerprint.

    Attributes:
        blocks: For good.
        elsewhere: The same on another server, if any, which may give it back; not any more once this one has asked the store
            for it too.
        attempt: The one that is under way.
        attempts: How many there were; every `_ATTEMPTS` of them begin anew, with nothing paid.
    """

    blocks: dict[bytes, Rows] = field(default_factory=dict)
    elsewhere: Mapping[bytes, Rows] | None = None
    attempt: Charge | None = None
    attempts: int = 0

    @property
    def round(self) -> int:
        """How often it has begun anew."""
        return max(0, self.attempts - 1) // _ATTEMPTS


class Charges:
    """What one account's request ids have paid for."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._paid: OrderedDict[str, Paid] = OrderedDict()
        self._blocks = 0

    async def of(self, request_id: str, again: bool, budget: Budget) -> Paid:
        """The record of a request id; ``again`` if the caller says that the id has been sent before, perhaps to another server."""
        if not request_id:
            return Paid()
        paid = self._paid.get(request_id)
        if paid is None:
            paid = Paid()
            if again and budget.counted:
                desk = self.account.desk
                found = await desk.ask(desk.store.charged, self.account.principal, self.account.model, request_id)
                if desk.exact:
                    paid.elsewhere = found
                else:
                    paid.blocks.update(found)
                paid = self._paid.get(request_id) or paid
            self._paid[request_id] = paid
            self.remember(request_id, paid, 1 + len(paid.blocks))
        return paid

    def begin(self, request_id: str, paid: Paid, attempt: Charge) -> None:
        """Takes note of one more attempt, after the one before has ended."""
        before = paid.round
        paid.attempt = attempt
        paid.attempts += 1
        if paid.round > before:
            if self._paid.get(request_id) is paid:
                self._blocks -= len(paid.blocks)
            paid.blocks, paid.elsewhere = {}, None

    def remember(self, request_id: str, paid: Paid, blocks: int) -> None:
        """Takes note of more blocks of a request id, and forgets the oldest ids if they are too many."""
        if self._paid.get(request_id) is not paid:
            return
        self._blocks += blocks
        while self._blocks > _REMEMBERED_BLOCKS and len(self._paid) > 1:
            _, oldest = self._paid.popitem(last=False)
            self._blocks -= 1 + len(oldest.blocks)


class Charge:
    """What one attempt at a call pays. An async context manager around the whole call.

    Args:
        charges: The account's.
        budget: What limits it.
        request_id: The client's; empty: nobody else's.
        again: Whether the client says that it has sent the id before.
        rows: Of the whole call.
        give_way: Ends this attempt because the client has begun another one.

    Attributes:
        binding: Whether blocks must be told apart by what is in them: only where rows can run out does anybody gain by a false id.
        rows: Rows of the whole call.
        give_way: As given.
        charged: The rows that this attempt has paid, or that another server has and the ledger may not know of yet.
        paid: The same by the fingerprints of their blocks.
    """

    def __init__(
        self, charges: Charges, budget: Budget, request_id: str, again: bool, rows: Rows, give_way: Callable[[], None]
    ) -> None:
        forward, backward = budget.counts
        self.binding = (forward and rows.forward > 0) or (backward and rows.backward > 0)
        self.give_way = give_way
        self.charged = _NONE
        self.paid: dict[bytes, Rows] = {}
        self._charges = charges
        self._account = charges.account
        self._budget = budget
        self._request_id = request_id
        self._again = again
        self.rows = rows
        self._exact = self.binding and self._account.desk.exact
        self._taken: list[tuple[Lease, Rows]] = []
        # Of what was taken: rows whose blocks have not been computed, and those of them whose blocks have begun.
        self._held = self._begun = _NONE
        # With nothing held in memory: what has been charged for blocks that have begun; None: by another server.
        self._alone: dict[bytes, tuple[ChargeRecord, Lease] | None] = {}

    async def __aenter__(self) -> Charge:
        """Raises RateLimited, BudgetSpent or StoreUnavailable."""
        if self._budget.rows_per_s is not None:
            self._account.rate.enter(self.rows.forward + self.rows.backward, self._budget.rows_per_s)
        record = self._record = await self._charges.of(self._request_id, self._again, self._budget)
        while record.attempt is not None:
            record.attempt.give_way()
            await asyncio.sleep(_GIVING_WAY_S)
        self._charges.begin(self._request_id, record, self)
        if self.binding:
            paid = {**(record.elsewhere or {}), **record.blocks}
            needed = self.rows.beyond(sum(paid.values(), _NONE))
            try:
                await (self._account.check(needed, self._budget) if self._exact else self._take(needed))
            except BaseException:
                record.attempt = None
                raise
        return self

    async def begin(self, rows: Rows, fingerprint: bytes) -> None:
        """A block is about to be computed. Raises BudgetSpent or StoreUnavailable if it turns out not to be paid for."""
        if not self.binding or fingerprint in self._record.blocks:
            return
        if self._exact:
            await self._take_alone(rows, fingerprint)
            return
        self._begun += rows
        if more := self._begun.beyond(self._held):
            await self._take(more)

    def computed(self, rows: Rows, fingerprint: bytes) -> None:
        """A block that `begin` was called for has been computed."""
        if fingerprint in self._record.blocks:
            return
        if self._exact:
            # Which of several servers was paid, the ledger says when all have written down their calls.
            del self._alone[fingerprint]
        elif self.binding:
            self._begun -= rows
            self._held -= rows
        self.charged = rows if self.charged is _NONE else self.charged + rows
        self._record.blocks[fingerprint] = self.paid[fingerprint] = rows
        self._charges.remember(self._request_id, self._record, 1)

    async def __aexit__(self, *_: object) -> None:
        self._record.attempt = None
        for lease, rows in reversed(self._taken):
            back = rows.at_most(counted(self._held, self._budget))
            self._account.give(back, lease)
            self._held -= back
        for alone in self._alone.values():
            if alone is not None:
                self._account.give_for(*alone)

    @property
    def round(self) -> bytes:
        """What else blocks must be told apart by, once the attempt has begun."""
        return self._record.round.to_bytes(4, "little") if self._record.round else b""

    @property
    def lease(self) -> Lease | None:
        """What was taken is of; of several leases the first: in a window that is over nothing is given back too much."""
        return self._taken[0][0] if self._taken else None

    async def _take_alone(self, rows: Rows, fingerprint: bytes) -> None:
        limited = counted(rows, self._budget)
        # Without a request id it is nobody else's, and needs a name all the same.
        request_id = self._request_id or f"none-{uuid.uuid4().hex}"
        at_us = time.time_ns() // 1000
        of = (self._account.principal, self._account.model, request_id)
        charge = ChargeRecord(*of, fingerprint, limited.forward, limited.backward, at_us)
        lease = await self._account.take_for(charge, self._budget)
        self._alone[fingerprint] = None if lease is None else (charge, lease)

    async def _take(self, rows: Rows) -> None:
        lease = await self._account.take(rows, self._budget)
        self._held += rows
        if lease is not None:
            self._taken.append((lease, counted(rows, self._budget)))
