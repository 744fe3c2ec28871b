"""Counting rows: exact, whatever order of charges, computed blocks, failures and repeated attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gradwire.server.usage import Counter, Rows

ATTEMPTS = st.lists(st.integers(0, 10), min_size=1, max_size=6)


@given(size=st.integers(0, 10), backward=st.integers(0, 3), attempts=ATTEMPTS)
def test_a_call_costs_what_its_furthest_attempt_had_computed(size: int, backward: int, attempts: list[int]) -> None:
    counter = Counter()
    furthest = 0
    for reached in attempts:
        charge = counter.charge("id", Rows(size, size * backward))
        assert counter.used == Rows(size, size * backward)
        for _ in range(min(reached, size)):
            charge.add_computed(Rows(1, backward))
        charge.refund()
        furthest = max(furthest, min(reached, size))
        assert counter.used == Rows(furthest, furthest * backward)


@given(sizes=st.lists(st.integers(1, 5), max_size=20))
def test_calls_with_ids_of_their_own_and_calls_without_ids_add_up(sizes: list[int]) -> None:
    counter = Counter()
    for index, size in enumerate(sizes):
        for request_id in (f"id {index}", ""):
            charge = counter.charge(request_id, Rows(size, 0))
            charge.add_computed(Rows(size, 0))
            charge.refund()
    assert counter.used == Rows(2 * sum(sizes), 0)


def test_attempts_at_the_same_time_are_charged_once() -> None:
    counter = Counter()
    first = counter.charge("id", Rows(10, 0))
    second = counter.charge("id", Rows(10, 0))
    assert counter.used == Rows(10, 0)
    second.add_computed(Rows(10, 0))
    second.refund()
    first.refund()
    assert counter.used == Rows(10, 0)
