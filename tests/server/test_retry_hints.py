"""Callers who are refused are told to stay away the longer, the more they are."""

from __future__ import annotations

import heapq
import random

import pytest

from gradwire.server.scheduling.retry_hints import RetryHints


def refused_a_second(callers: int, seconds: float = 120.0) -> float:
    """Refusals a second in the last quarter of a time in which all callers are refused and obey the hint."""
    refusals, draw = RetryHints(), random.Random(0)
    due = [(draw.random() * 0.05, caller) for caller in range(callers)]
    heapq.heapify(due)
    late = 0
    while due[0][0] < seconds:
        now_s, caller = due[0]
        # As clients do, who do not come back all at once.
        heapq.heapreplace(due, (now_s + refusals.hint_s("one", now_s) * draw.uniform(1.0, 1.5), caller))
        late += now_s > seconds * 0.75
    return late / (seconds / 4)


@pytest.mark.parametrize("callers", [100, 1000])
def test_about_a_hundred_come_back_in_a_second_however_many_they_are(callers: int) -> None:
    assert 40 < refused_a_second(callers) < 200


def test_a_few_are_told_to_come_back_at_once() -> None:
    assert RetryHints().hint_s("one", 1e6) == 0.05
    assert 2 / 0.05 / 2 < refused_a_second(2) <= 2 / 0.05


def test_nobody_is_told_to_stay_away_for_more_than_half_a_minute_and_a_crowd_is_forgotten() -> None:
    refusals = RetryHints()
    hints = [refusals.hint_s("one", number / 10_000) for number in range(50_000)]
    assert max(hints) == 30.0
    assert refusals.hint_s("one", 1000.0) < 5
    assert refusals.hint_s("one", 2000.0) == 0.05


def test_one_who_comes_with_a_crowd_does_not_keep_the_others_away() -> None:
    refusals = RetryHints()
    for number in range(50_000):
        hint_s = refusals.hint_s("crowd", number / 10_000)
        if number % 5_000 == 0:
            assert refusals.hint_s("another", number / 10_000) < 0.2
    assert hint_s == 30.0


def test_callers_share_and_those_of_long_ago_are_forgotten() -> None:
    refusals = RetryHints()
    for number in range(1000):
        refusals.hint_s(f"caller {number}", 0.0)
    assert len(refusals._callers) == 1000
    refusals.hint_s("caller 999", 1000.0)
    assert len(refusals._callers) == 1
