"""Accounts: rows are leased from the store, used from memory, and never more than there are."""

from __future__ import annotations

import asyncio

import pytest

from gradwire.server.errors import BudgetSpent
from gradwire.server.trust.budgets.account import Account
from gradwire.server.trust.grants.grant import Budget
from gradwire.server.values.rows import Rows

TEN = Budget(forward=10)
THOUSAND = Budget(forward=1000, backward=500)


def taken(store, window_s=None, now_s=0.0):
    return store.taken("alice", "digits", window_s, now_s)


def test_a_budget_is_used_to_its_last_row_and_no_further(desks, run):
    async def use():
        account = Account("alice", "digits", desks(100))
        for _ in range(10):
            await account.take(Rows(1, 1), TEN)
        with pytest.raises(BudgetSpent, match=r"alice's budget for 'digits' has 0 forward rows left of 10, and the call needs 1"):
            await account.take(Rows(1, 1), TEN)

    run(use())


def test_rows_are_taken_from_the_store_in_leases(desks, run, store):
    async def use():
        account = Account("alice", "digits", desks(100))
        await account.take(Rows(1, 0), THOUSAND)
        assert taken(store).total == Rows(100, 0)
        for _ in range(99):
            await account.take(Rows(1, 0), THOUSAND)
        assert taken(store).total == Rows(100, 0)
        assert account.left == Rows()
        await account.take(Rows(250, 1), THOUSAND)
        assert taken(store).total == Rows(350, 100)
        assert account.left == Rows(0, 99)

    run(use())


def test_what_is_not_used_goes_back(desks, run, store):
    async def use():
        account = Account("alice", "digits", desks(100))
        lease = await account.take(Rows(30, 30), THOUSAND)
        account.refund(Rows(10, 20), lease)
        await account.settle()
        assert taken(store).total == Rows(20, 10)

    run(use())


def test_two_servers_share_a_budget_exactly(desks, run, store):
    async def use():
        accounts = [Account("alice", "digits", desks(100)) for _ in range(2)]
        served = 0

        async def client(account):
            nonlocal served
            while True:
                try:
                    await account.take(Rows(7, 0), THOUSAND)
                except BudgetSpent:
                    return
                served += 7

        await asyncio.gather(*(client(account) for account in accounts for _ in range(8)))
        left = sum(account.left.forward for account in accounts)
        assert served + left == taken(store).total.forward <= 1000
        # What is left in the store, and with each server, is less than a call's rows.
        assert served > 1000 - 3 * 7

    run(use())


def test_a_call_that_is_cancelled_while_it_waits_for_rows_loses_none(desks, run, store):
    async def use():
        account = Account("alice", "digits", desks(100))
        calls = [asyncio.create_task(account.take(Rows(1, 0), THOUSAND)) for _ in range(20)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(0.2)
        assert taken(store).total == account.left
        await account.settle()
        assert taken(store).total == Rows()

    run(use())


def test_rows_of_a_window_that_is_over_are_not_used_in_the_next(desks, run, store):
    budget = Budget(forward=1000, window_s=60, window_forward=50)

    async def use():
        desk = desks(100)
        desk.clock._latest_s = start_s = 60 * 40_000_000.0
        account = Account("alice", "digits", desk)
        first = await account.take(Rows(20, 0), budget)
        with pytest.raises(BudgetSpent, match=r"left of 50 in each 60 s, and the call needs 60; it refills at"):
            await account.take(Rows(60, 0), budget)
        desk.clock._latest_s += 60
        await account.take(Rows(50, 0), budget)
        assert taken(store, 60, start_s + 60).window == Rows(50)
        # What was charged in the first window and not computed is the total's, and not this window's.
        account.refund(Rows(5, 0), first)
        await asyncio.sleep(0.2)
        assert taken(store, 60, start_s + 60) == type(taken(store))(Rows(65), Rows(50), round(start_s) + 60)

    run(use())


def test_what_no_budget_counts_costs_the_store_nothing(desks, run, store):
    async def use():
        account = Account("alice", "digits", desks(100))
        assert await account.take(Rows(10**9, 10**9), Budget()) is None
        assert await account.take(Rows(0, 10**9), TEN) is None
        assert taken(store).total == Rows()

    run(use())
