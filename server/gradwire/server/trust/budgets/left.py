"""Rows left of every budget, for metrics: one query of the store at most every five seconds."""

from __future__ import annotations

import threading
import time
from typing import Literal, NamedTuple

from gradwire.server.errors import StoreUnavailable
from gradwire.server.store.records import Taken
from gradwire.server.store.store import Store
from gradwire.server.trust.budgets.accounts import Accounts
from gradwire.server.trust.grants.book import GrantBook
from gradwire.server.trust.grants.grant import Budget
from gradwire.server.values.rows import Rows

_KNOWN_S = 5.0
"""Time for which an answer of the store is reused."""

Direction = Literal["forward", "backward"]
_DIRECTIONS: tuple[Direction, Direction] = ("forward", "backward")


class Left(NamedTuple):
    """Rows that one principal may still use of one served name."""

    principal: str
    model: str
    direction: Direction
    rows: int


class BudgetsLeft:
    """Reads the rows left of all budgets. Not for the event loop's thread, because it waits for the store.

    Args:
        book: Grants with their budgets.
        accounts: Rows that this server has leased and not used.
        store: Rows that all servers have taken.
    """

    def __init__(self, book: GrantBook, accounts: Accounts, store: Store) -> None:
        self._book = book
        self._accounts = accounts
        self._store = store
        self._reading = threading.Lock()
        self._latest: list[Left] = []
        self._latest_s = -_KNOWN_S

    def read(self) -> list[Left]:
        """Returns an entry per limited direction of each grant in force; none while the store is unavailable."""
        with self._reading:
            if time.monotonic() - self._latest_s >= _KNOWN_S:
                try:
                    self._latest = self._read()
                except StoreUnavailable:
                    self._latest = []
                self._latest_s = time.monotonic()
            return self._latest

    def _read(self) -> list[Left]:
        budgets = {(grant.principal, grant.model): grant.budget for grant in self._book.all() if grant.budget.counted}
        if not budgets:
            return []
        windows = {key: budget.window_s for key, budget in budgets.items()}
        taken = self._store.taken_of(windows, time.time())
        return [left for key, budget in budgets.items() for left in self._of(*key, budget, taken[key])]

    def _of(self, principal: str, model: str, budget: Budget, taken: Taken) -> list[Left]:
        account = self._accounts.known(principal, model)
        held, held_now = (Rows(), Rows()) if account is None else (account.left, account.left_of(taken.window_start))
        total, window = taken.total - held, taken.window - held_now
        found = []
        for direction in _DIRECTIONS:
            limits = (
                (getattr(budget, direction), getattr(total, direction)),
                (getattr(budget, f"window_{direction}"), getattr(window, direction)),
            )
            left = [max(0, limit - used) for limit, used in limits if limit is not None]
            if left:
                found.append(Left(principal, model, direction, min(left)))
        return found
