"""Budgets are exact: on both databases, under concurrency, at windows' ends, and after a kill."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import environment

from gradwire.server.store import BudgetLimits, BudgetShort, ChargeRecord, Lease, Store, Taken
from gradwire.server.values.rows import Rows

TAKE_ROWS = Path(__file__).parent / "take_rows.py"
HOUR = 3600
NOW = 1_000_000.0 * HOUR
HUNDRED = BudgetLimits(max_forward=100)


def take(store: Store, least: int, wish: int, limits: BudgetLimits = HUNDRED, now: float = NOW, backward: int = 0) -> Lease:
    return store.take("alice", "digits", Rows(least, backward), Rows(wish, backward), limits, now)


def test_a_lease_is_what_is_wished_for_but_at_most_half_of_what_is_left(store):
    assert take(store, 1, 30).rows == Rows(30, 0)
    assert take(store, 1, 60).rows == Rows(35, 0)
    assert take(store, 1, 60).rows == Rows(17, 0)
    assert store.taken("alice", "digits", None, NOW).total == Rows(82, 0)


def test_a_call_gets_what_it_needs_to_the_last_row(store):
    assert take(store, 99, 1).rows == Rows(99, 0)
    assert take(store, 1, 10).rows == Rows(1, 0)
    with pytest.raises(BudgetShort, match="0 forward rows are left of 100; the call needs 1"):
        take(store, 1, 1)


def test_what_is_short_takes_nothing_and_says_what_is_left(store):
    limits = BudgetLimits(max_forward=100, max_backward=7)
    with pytest.raises(BudgetShort) as caught:
        take(store, 10, 10, limits, backward=8)
    short = caught.value
    assert (short.window_s, short.direction, short.limit, short.left, short.needed) == (None, "backward", 7, 7, 8)
    assert short.refills_at is None
    assert store.taken("alice", "digits", None, NOW) == Taken(Rows(), Rows(), 0)


def test_forward_and_backward_rows_are_halved_apart(store):
    limits = BudgetLimits(max_forward=1000, max_backward=10)
    lease = store.take("alice", "digits", Rows(1, 1), Rows(100, 100), limits, NOW)
    assert lease.rows == Rows(100, 5)


def test_a_budget_without_limits_gives_what_is_wished_for_and_counts_it(store):
    assert take(store, 1, 10**9, BudgetLimits()).rows == Rows(10**9, 0)
    assert store.taken("alice", "digits", None, NOW).total == Rows(10**9, 0)


def test_each_principal_and_each_model_has_a_budget_of_its_own(store):
    take(store, 100, 100)
    assert store.take("bob", "digits", Rows(100, 0), Rows(), HUNDRED, NOW).rows == Rows(100, 0)
    assert store.take("alice", "letters", Rows(100, 0), Rows(), HUNDRED, NOW).rows == Rows(100, 0)


def test_a_window_refills_and_the_total_does_not(store):
    limits = BudgetLimits(max_forward=25, window_s=HOUR, window_forward=10)
    assert take(store, 10, 10, limits, NOW + 5).window_end == NOW + HOUR
    with pytest.raises(BudgetShort, match="0 forward rows are left of 10 in each 3600 s; the call needs 1") as caught:
        take(store, 1, 1, limits, NOW + HOUR - 1)
    assert caught.value.refills_at == NOW + HOUR
    take(store, 10, 10, limits, NOW + HOUR)
    assert store.taken("alice", "digits", HOUR, NOW + HOUR) == Taken(Rows(20, 0), Rows(10, 0), int(NOW) + HOUR)
    with pytest.raises(BudgetShort, match="5 forward rows are left of 25; the call needs 6"):
        take(store, 6, 6, limits, NOW + 2 * HOUR)
    take(store, 5, 5, limits, NOW + 2 * HOUR)


def test_a_clock_that_steps_back_does_not_reopen_a_window(store):
    limits = BudgetLimits(window_s=HOUR, window_forward=10)
    take(store, 10, 10, limits, NOW + HOUR)
    with pytest.raises(BudgetShort) as caught:
        take(store, 1, 1, limits, NOW)
    assert caught.value.refills_at == NOW + 2 * HOUR
    assert store.taken("alice", "digits", HOUR, NOW).window == Rows(10, 0)


def test_what_is_given_back_can_be_taken_again(store):
    limits = BudgetLimits(max_forward=10, window_s=HOUR, window_forward=10)
    lease = take(store, 10, 10, limits)
    store.give_back(lease, Rows(4, 0))
    assert store.taken("alice", "digits", HOUR, NOW) == Taken(Rows(6, 0), Rows(6, 0), int(NOW))
    take(store, 4, 4, limits)
    with pytest.raises(BudgetShort):
        take(store, 1, 1, limits)


def test_rows_of_a_past_window_go_back_to_the_total_alone(store):
    limits = BudgetLimits(max_forward=100, window_s=HOUR, window_forward=10)
    old = take(store, 10, 10, limits)
    take(store, 8, 8, limits, NOW + HOUR)
    store.give_back(old, Rows(10, 0))
    assert store.taken("alice", "digits", HOUR, NOW + HOUR) == Taken(Rows(8, 0), Rows(8, 0), int(NOW) + HOUR)


def test_more_than_the_lease_cannot_be_given_back(store):
    lease = take(store, 10, 10)
    with pytest.raises(ValueError, match="expected between 0 rows and the rows of the lease"):
        store.give_back(lease, Rows(11, 0))
    with pytest.raises(ValueError, match="expected between 0 rows and the rows of the lease"):
        store.give_back(lease, Rows(-1, 0))


def test_restocking_fills_the_total_and_the_windows(store):
    limits = BudgetLimits(max_forward=10, window_s=HOUR, window_forward=10)
    take(store, 10, 10, limits)
    store.restock("alice", "digits")
    take(store, 10, 10, limits)


def test_a_lease_from_before_a_restock_does_not_make_the_budget_more_than_full(store):
    lease = take(store, 50, 50)
    store.restock("alice", "digits")
    take(store, 100, 100)
    store.give_back(lease, Rows(50, 0))
    with pytest.raises(BudgetShort):
        take(store, 1, 1)


def test_a_limit_that_is_lowered_below_what_was_taken_leaves_nothing(store):
    take(store, 50, 50)
    with pytest.raises(BudgetShort, match="0 forward rows are left of 20"):
        take(store, 1, 1, BudgetLimits(max_forward=20))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"window_forward": 5}, "need window_s"),
        ({"window_s": 0}, "at least 1 second"),
        ({"max_backward": -1}, "max_backward is -1; expected 0 or more rows"),
    ],
)
def test_limits_that_cannot_be_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        BudgetLimits(**limits)


def takers(url: str, limit: int, threads: int, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(TAKE_ROWS), url, str(limit), str(threads), str(seed)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, **pipes, text=True, env=environment())
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    return process


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_of_several_threads_take_exactly_what_there_is(url):
    running = [takers(url, 5000, 3, seed) for seed in (1, 2)]
    for process in running:
        begin(process)
    took = []
    for process in running:
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        took.append([int(line) for line in out.split()])
    # All 5,000, and not one more, to processes that both got some.
    assert sum(map(sum, took)) == 5000
    assert all(sum(lines) > 0 for lines in took)
    with Store.open(url) as store:
        assert store.taken("alice", "digits", None, NOW).total == Rows(5000, 0)


def test_after_a_kill_a_budget_is_not_exceeded_and_short_by_the_lost_leases_at_most(url):
    Store.open(url).close()
    threads = 2
    killed = takers(url, 5000, threads, 3)
    begin(killed)
    told = 0
    assert killed.stdout is not None
    for _ in range(25):
        told += int(killed.stdout.readline())
    killed.kill()
    out, _ = killed.communicate(timeout=30)
    # The kill may cut a line in two, or fall between what was done and what was told of it: once for each thread.
    told += sum(int(line) for line in out.splitlines(keepends=True) if line.endswith("\n"))
    with Store.open(url) as store:
        gone = store.taken("alice", "digits", None, NOW).total.forward
        assert abs(gone - told) <= threads * 50
        assert gone <= 5000
        rest = store.take("alice", "digits", Rows(5000 - gone, 0), Rows(), BudgetLimits(max_forward=5000), NOW)
        assert rest.rows.forward + gone == 5000
        with pytest.raises(BudgetShort):
            take(store, 1, 1, BudgetLimits(max_forward=5000))


CHARGE = ChargeRecord("alice", "digits", "id", b"content", 60, 5, 1)


def test_a_charge_is_taken_once_whichever_servers_ask_for_it(url, store):
    limits = BudgetLimits(max_forward=100, max_backward=100)
    with Store.open(url) as other:
        lease = store.take_for(CHARGE, limits, NOW)
        assert lease is not None
        assert lease.rows == Rows(60, 5)
        assert other.take_for(CHARGE, limits, NOW) is None
        assert other.taken("alice", "digits", None, NOW).total == Rows(60, 5)
        # Another server answers for it by now.
        store.give_back_for(CHARGE, lease)
        assert store.taken("alice", "digits", None, NOW).total == Rows(60, 5)
        another = CHARGE._replace(digest=b"another", forward=1)
        lease = store.take_for(another, limits, NOW)
        assert lease is not None
        store.give_back_for(another, lease)
        assert store.taken("alice", "digits", None, NOW).total == Rows(60, 5)
        assert other.take_for(another, limits, NOW) is not None


def test_a_charge_that_the_budget_is_short_of_is_not_kept(store):
    limits = BudgetLimits(max_forward=50)
    for _ in range(2):
        with pytest.raises(BudgetShort):
            store.take_for(CHARGE, limits, NOW)
    assert store.charged("alice", "digits", "id") == {}


def test_asking_whether_a_budget_is_short_takes_nothing(store):
    take(store, 60, 60)
    store.check("alice", "digits", Rows(40, 0), HUNDRED, NOW)
    with pytest.raises(BudgetShort, match="40 forward rows are left of 100; the call needs 41"):
        store.check("alice", "digits", Rows(41, 0), HUNDRED, NOW)
    assert store.taken("alice", "digits", None, NOW).total == Rows(60, 0)
