"""Any order of takes, returns, restocks and clock steps leaves a budget as simple arithmetic says."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gradwire.server.store import BudgetLimits, BudgetShort, Lease, Store
from gradwire.server.values.rows import Rows

WINDOW_S = 60
LIMITS = BudgetLimits(max_forward=200, max_backward=150, window_s=WINDOW_S, window_forward=90, window_backward=100)
ROWS = st.builds(Rows, st.integers(0, 60), st.integers(0, 60))


class Budget(RuleBasedStateMachine):
    """Beside the store, the leases that are held, and all rows that were ever used, by window."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store.open(f"sqlite:///{Path(self.folder.name) / 'gradwire.db'}")
        self.now = 1000.0
        self.latest = 0
        self.held: list[Lease] = []
        self.gone = Rows()
        self.gone_in_window = Rows()
        self.restocks = 0

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def window(self) -> int:
        """The window that counts: of the latest time that there has been a take at."""
        return max(self.latest, int(self.now // WINDOW_S) * WINDOW_S)

    @rule(least=ROWS, wish=ROWS)
    def take(self, least: Rows, wish: Rows) -> None:
        start = self.window()
        in_window = self.gone_in_window if start == self.latest else Rows()
        left = Rows(
            min(200 - self.gone.forward, 90 - in_window.forward),
            min(150 - self.gone.backward, 100 - in_window.backward),
        )
        if least.forward > left.forward or least.backward > left.backward:
            with pytest.raises(BudgetShort) as caught:
                self.store.take("alice", "digits", least, wish, LIMITS, self.now)
            assert getattr(left, caught.value.direction) <= caught.value.left < caught.value.needed
            return
        lease = self.store.take("alice", "digits", least, wish, LIMITS, self.now)
        for direction in ("forward", "backward"):
            there, needed = getattr(left, direction), getattr(least, direction)
            assert getattr(lease.rows, direction) == max(needed, min(getattr(wish, direction), there // 2))
        self.latest, self.gone_in_window = start, in_window + lease.rows
        self.gone += lease.rows
        self.held.append(lease)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        lease = self.held.pop(data.draw(st.integers(0, len(self.held) - 1), label="lease"))
        rows = Rows(
            data.draw(st.integers(0, lease.rows.forward), label="forward"),
            data.draw(st.integers(0, lease.rows.backward), label="backward"),
        )
        self.store.give_back(lease, rows)
        if lease.restocks == self.restocks:
            self.gone -= rows
            if lease.window_start == self.latest:
                self.gone_in_window -= rows

    @rule(seconds=st.integers(-90, 90))
    def the_clock_steps(self, seconds: int) -> None:
        self.now = max(0.0, self.now + seconds)

    @rule()
    def restock(self) -> None:
        self.store.restock("alice", "digits")
        self.gone, self.gone_in_window = Rows(), Rows()
        self.restocks += 1

    @invariant()
    def the_store_says_what_arithmetic_says(self) -> None:
        taken = self.store.taken("alice", "digits", WINDOW_S, self.now)
        assert taken.total == self.gone
        assert taken.window == (self.gone_in_window if self.window() == self.latest else Rows())
        assert 0 <= taken.total.forward <= 200
        assert 0 <= taken.window.forward <= 90


Budget.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
TestBudget = Budget.TestCase
