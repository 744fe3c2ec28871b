"""Charges: before the work, once for each question under a request id, and only for what is computed."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradwire.server.errors import BudgetSpent, RateLimited
from gradwire.server.store.records import ChargeRecord
from gradwire.server.trust.budgets.account import Account
from gradwire.server.trust.budgets.charges import _ATTEMPTS, Charge, Charges
from gradwire.server.trust.grants.grant import Budget
from gradwire.server.values.rows import Rows

HUNDRED = Budget(forward=100)


async def attempt(charges, request_id, blocks, computed=None, again=False, budget=HUNDRED, give_way=lambda: None):
    """One attempt at a call of blocks (name, rows), of which the first ``computed`` are computed."""
    charge = Charge(charges, budget, request_id, again, Rows(sum(rows for _, rows in blocks)), give_way)
    async with charge:
        for index, (name, rows) in enumerate(blocks):
            await charge.begin(Rows(rows), name)
            if computed is None or index < computed:
                charge.computed(Rows(rows), name)
    return charge


def used(store, charges):
    return store.taken("alice", "digits", None, 0.0).total - charges.account.left


@pytest.fixture(params=[100, 1], ids=["leases", "exact"])
def charges(desks, request):
    return Charges(Account("alice", "digits", desks(request.param)))


async def settled(charges):
    while charges.account._requests:
        await asyncio.sleep(0.01)


def test_a_call_that_is_sent_again_is_charged_once(charges, run, store):
    async def use():
        first = await attempt(charges, "id", [(b"a", 30), (b"b", 20)])
        assert first.charged == Rows(50)
        again = await attempt(charges, "id", [(b"a", 30), (b"b", 20)], again=True)
        assert again.charged == Rows()
        assert used(store, charges) == Rows(50)

    run(use())


def test_what_is_paid_for_is_answered_a_few_times_and_then_paid_for_anew(charges, run, store):
    """A model that draws its answers anew each time would otherwise be asked for nothing as often as one likes."""

    async def use():
        rounds = []
        for number in range(2 * _ATTEMPTS + 1):
            charge = Charge(charges, HUNDRED, "id", number > 0, Rows(10), lambda: None)
            async with charge:
                name = b"a" + charge.round
                await charge.begin(Rows(10), name)
                charge.computed(Rows(10), name)
            rounds.append(charge.charged)
        assert [number for number, rows in enumerate(rounds) if rows] == [0, _ATTEMPTS, 2 * _ATTEMPTS]
        assert set(rounds) == {Rows(), Rows(10)}
        await settled(charges)
        assert used(store, charges) == Rows(30)
        assert charges._blocks == 1 + 1

    run(use())


def test_another_question_under_the_same_id_is_another_charge(charges, run, store):
    async def use():
        await attempt(charges, "id", [(b"a", 30)])
        await attempt(charges, "id", [(b"b", 30)])
        assert used(store, charges) == Rows(60)
        with pytest.raises(BudgetSpent):
            await attempt(charges, "id", [(b"c", 30), (b"d", 30)])
        await settled(charges)
        # The first of the two was computed.
        assert used(store, charges) == Rows(90)

    run(use())


def test_what_is_not_computed_is_given_back(charges, run, store):
    async def use():
        half = await attempt(charges, "id", [(b"a", 30), (b"b", 20)], computed=1)
        await settled(charges)
        assert half.charged == Rows(30)
        assert used(store, charges) == Rows(30)
        await attempt(charges, "id", [(b"a", 30), (b"b", 20)], again=True)
        await settled(charges)
        assert used(store, charges) == Rows(50)

    run(use())


def test_a_call_that_the_budget_does_not_cover_is_refused_before_its_first_block(charges, run, store):
    async def use():
        with pytest.raises(BudgetSpent, match="100 forward rows left of 100, and the call needs 101"):
            await attempt(charges, "", [(b"a", 1), (b"b", 100)])
        await settled(charges)
        assert used(store, charges) == Rows()

    run(use())


def test_two_attempts_at_the_same_time_wait_for_one_another(charges, run, store):
    async def use():
        blocks = [(b"a", 60)]
        first, second = await asyncio.gather(attempt(charges, "id", blocks), attempt(charges, "id", blocks, again=True))
        await settled(charges)
        assert first.charged + second.charged == Rows(60) == used(store, charges)

    run(use())


def test_an_attempt_gives_way_to_the_next_one_under_its_id(charges, run, store):
    async def use():
        told = asyncio.Event()

        async def stuck():
            charge = Charge(charges, HUNDRED, "id", False, Rows(60), told.set)
            async with charge:
                await charge.begin(Rows(60), b"a")
                await told.wait()

        first = asyncio.create_task(stuck())
        await asyncio.sleep(0.1)
        second = await attempt(charges, "id", [(b"a", 60)], again=True)
        await first
        await settled(charges)
        assert second.charged == Rows(60) == used(store, charges)

    run(use())


def test_another_server_knows_what_was_charged_under_an_id(desks, run, store):
    async def use():
        one, other = (Charges(Account("alice", "digits", desks(100))) for _ in range(2))
        charge = await attempt(one, "id", [(b"a", 30)])
        records = [ChargeRecord("alice", "digits", "id", name, rows.forward, 0, 1) for name, rows in charge.paid.items()]
        store.write_calls([], records, writer="w", number=1)
        again = await attempt(other, "id", [(b"a", 30)], again=True)
        assert again.charged == Rows()

    run(use())


def test_with_exact_leases_a_server_that_is_killed_in_the_middle_of_a_call_has_charged_it_for_the_next(desks, run, store):
    async def use():
        one, other = (Charges(Account("alice", "digits", desks(1))) for _ in range(2))
        killed = Charge(one, HUNDRED, "id", False, Rows(30), lambda: None)
        await killed.__aenter__()
        await killed.begin(Rows(30), b"a")
        again = await attempt(other, "id", [(b"a", 30)], again=True)
        # What the other has paid for it: the ledger has the rows from whoever writes first.
        assert again.charged == Rows(30)
        assert store.taken("alice", "digits", None, 0.0).total == Rows(30)
        # That one was not dead after all, and gives up: it was answered, and stays paid.
        await killed.__aexit__(None, None, None)
        await settled(one)
        assert store.taken("alice", "digits", None, 0.0).total == Rows(30)

    run(use())


def test_calls_without_an_id_are_each_charged(charges, run, store):
    async def use():
        for _ in range(3):
            await attempt(charges, "", [(b"a", 10)])
        assert used(store, charges) == Rows(30)

    run(use())


def test_a_rate_lets_in_what_fits_and_says_when_to_come_back(desks, run):
    async def use():
        charges = Charges(Account("alice", "digits", desks(100)))
        slow = Budget(rows_per_s=50)
        await attempt(charges, "", [(b"a", 50)], budget=slow)
        with pytest.raises(RateLimited) as limited:
            await attempt(charges, "", [(b"a", 10)], budget=slow)
        assert 0 < limited.value.retry_after_s <= 0.2
        await asyncio.sleep(limited.value.retry_after_s + 0.01)
        await attempt(charges, "", [(b"a", 10)], budget=slow)
        await asyncio.sleep(1.1)
        # Larger than a second's worth: let in when the bucket is full, and paid for by waiting afterwards.
        await attempt(charges, "", [(b"a", 500)], budget=slow)
        with pytest.raises(RateLimited) as limited:
            await attempt(charges, "", [(b"a", 1)], budget=slow)
        assert limited.value.retry_after_s > 8

    run(use())


BLOCKS = st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(1, 20))
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["", "p", "q"]),
        st.lists(
            st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(1, 20)), min_size=1, max_size=3, unique_by=lambda b: b[0]
        ),
        st.one_of(st.none(), st.integers(0, 3)),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(calls=CALLS, lease_rows=st.sampled_from([1, 3, 100]))
def test_what_is_taken_is_what_the_paid_blocks_cost_and_never_beyond_the_budget(calls, lease_rows, tmp_path_factory):
    from concurrent.futures import ThreadPoolExecutor

    from gradwire.server.store import Store
    from gradwire.server.trust.budgets.account import Desk
    from gradwire.server.values.clock import SteadyClock

    # A block's rows are part of its name, as they are part of a fingerprint.
    calls = [
        (request_id, [(name + bytes([rows]), rows) for name, rows in blocks], computed) for request_id, blocks, computed in calls
    ]

    async def use(store, thread):
        charges = Charges(Account("alice", "digits", Desk(store, thread, SteadyClock(), lease_rows)))
        expected, known = 0, set()
        for request_id, blocks, computed in calls:
            try:
                charge = await attempt(charges, request_id, blocks, computed)
            except BudgetSpent:
                await settled(charges)
                # Blocks before the one that there were no rows for may have been paid.
                paid = charges._paid[request_id].blocks if request_id else {}
                known |= {(request_id, name) for name in paid}
                expected = used(store, charges).forward
                continue
            await settled(charges)
            fresh = [(name, rows) for name, rows in blocks[:computed] if not request_id or (request_id, name) not in known]
            known |= {(request_id, name) for name, _ in fresh}
            assert charge.charged == Rows(sum(rows for _, rows in fresh))
            expected += charge.charged.forward
            assert used(store, charges) == Rows(expected)
        assert store.taken("alice", "digits", None, 0.0).total.forward <= 100

    with Store.open(f"sqlite:///{tmp_path_factory.mktemp('charges') / 'gradwire.db'}") as store, ThreadPoolExecutor(1) as thread:
        asyncio.run(use(store, thread))
