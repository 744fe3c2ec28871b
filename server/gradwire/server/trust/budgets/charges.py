"""Charges of calls: before their work, once, and only for computed blocks.

The whole call is charged before its first block is computed, so that it does not run out of rows half-way; rows that are
not computed are refunded. A retry under the same request id does not pay again for blocks that the id has paid for:
a block is identified by its fingerprint, so another question under the same id is another charge.
Attempts under one id run one after the other: a client that retries has given up the attempt before, whose connection
may have broken unnoticed, and which is therefore ended.

If two servers charge the same block under one id, because the retry came before the first attempt was recorded, the store
refunds one of them when it records both (see `store.calls`).

With ``lease_rows`` 1 each block is charged in the store, in one transaction with its request id: then this server holds
no rows that a crash could lose.
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
"""Time that an attempt takes to end, approximately."""

_NONE = Rows()

_ATTEMPTS = 32
"""Attempts of a request id per charge. Without this limit, a model with random answers could be queried without end for one
charge. A client that loses its connection more often in one call pays again."""

_REMEMBERED_BLOCKS = 20_000
"""Blocks that each account remembers, about 5 MB: the last twenty seconds at a thousand small calls a second, and always the last
call."""


@dataclass(eq=False, slots=True)
class Paid:
    """Rows that one request id has paid for, by fingerprint of their block.

    Attributes:
        blocks: Rows paid on this server.
        elsewhere: Rows paid on another server, which may still refund them until this server requests them from the store
            too.
        attempt: The running attempt.
        attempts: Number of attempts; after every `_ATTEMPTS` of them the request id starts unpaid again.
    """

    blocks: dict[bytes, Rows] = field(default_factory=dict)
    elsewhere: Mapping[bytes, Rows] | None = None
    attempt: Charge | None = None
    attempts: int = 0

    @property
    def round(self) -> int:
        """Number of times that the request id has started unpaid again."""
        return max(0, self.attempts - 1) // _ATTEMPTS


class Charges:
    """Paid blocks of one account, by request id."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self._paid: OrderedDict[str, Paid] = OrderedDict()
        self._blocks = 0

    async def of(self, request_id: str, again: bool, budget: Budget) -> Paid:
        """Returns the record of a request id; ``again`` if it is a retry, perhaps of a call to another server."""
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
        """Records one more attempt, after the one before has ended."""
        before = paid.round
        paid.attempt = attempt
        paid.attempts += 1
        if paid.round > before:
            if self._paid.get(request_id) is paid:
                self._blocks -= len(paid.blocks)
            paid.blocks, paid.elsewhere = {}, None

    def remember(self, request_id: str, paid: Paid, blocks: int) -> None:
        """Counts more blocks of a request id, and forgets the oldest ids beyond the limit."""
        if self._paid.get(request_id) is not paid:
            return
        self._blocks += blocks
        while self._blocks > _REMEMBERED_BLOCKS and len(self._paid) > 1:
            _, oldest = self._paid.popitem(last=False)
            self._blocks -= 1 + len(oldest.blocks)


class Charge:
    """Charge of one attempt at a call. An async context manager around the whole call.

    Args:
        charges: Charges of the account.
        budget: Limits of the grant.
        request_id: Request id of the client; empty: unique to this call.
        again: True if the client has sent the id before.
        rows: Rows of the whole call.
        give_way: Ends this attempt because the client has begun another one.

    Attributes:
        binding: True if blocks need fingerprints: only where rows are limited could a reused id gain anything.
        rows: Rows of the whole call.
        give_way: As given.
        charged: Rows paid by this attempt, or by another server for a call that the ledger may not have yet.
        paid: The same rows by fingerprint of their block.
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
        # Taken rows whose blocks are not computed yet, and those of them whose blocks have begun.
        self._held = self._begun = _NONE
        # With exact charges: the charges of blocks that have begun; None: charged by another server.
        self._alone: dict[bytes, tuple[ChargeRecord, Lease] | None] = {}

    async def __aenter__(self) -> Charge:
        """Charges the whole call. Raises RateLimited, BudgetSpent or StoreUnavailable."""
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
        """Ensures that a block is paid before its computation. Raises BudgetSpent or StoreUnavailable."""
        if not self.binding or fingerprint in self._record.blocks:
            return
        if self._exact:
            await self._take_alone(rows, fingerprint)
            return
        self._begun += rows
        if more := self._begun.beyond(self._held):
            await self._take(more)

    def computed(self, rows: Rows, fingerprint: bytes) -> None:
        """Records that a block, for which `begin` was called, has been computed."""
        if fingerprint in self._record.blocks:
            return
        if self._exact:
            # If several servers charged it, the store refunds all but one when they record their calls.
            del self._alone[fingerprint]
        elif self.binding:
            self._begun -= rows
            self._held -= rows
        self.charged = rows if self.charged is _NONE else self.charged + rows
        self._record.blocks[fingerprint] = self.paid[fingerprint] = rows
        self._charges.remember(self._request_id, self._record, 1)

    async def __aexit__(self, *_: object) -> None:
        """Refunds the rows that were not computed."""
        self._record.attempt = None
        for lease, rows in reversed(self._taken):
            back = rows.at_most(counted(self._held, self._budget))
            self._account.refund(back, lease)
            self._held -= back
        for alone in self._alone.values():
            if alone is not None:
                self._account.refund_charge(*alone)

    @property
    def round(self) -> bytes:
        """Prefix of fingerprints for this round of attempts; empty in the first. Valid once the attempt has begun."""
        return self._record.round.to_bytes(4, "little") if self._record.round else b""

    @property
    def lease(self) -> Lease | None:
        """Lease of the taken rows, the first of several: refunds to a window that has ended have no effect."""
        return self._taken[0][0] if self._taken else None

    async def _take_alone(self, rows: Rows, fingerprint: bytes) -> None:
        limited = counted(rows, self._budget)
        # A call without a request id needs a unique one.
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
