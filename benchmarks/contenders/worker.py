"""The client process of a contender: it makes and times calls when it is told to, so that its turns can be among those of others.

It is told what to do by pickles on stdin, and answers on stdout. Needs numpy alone.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.contenders.contender import Function, timed
from benchmarks.model import Inputs


class Ask(NamedTuple):
    """One call, for its result."""

    way: str
    operation: str
    rows: int
    batch_size: int


class Times(NamedTuple):
    """So many calls, for how long each took, in seconds."""

    way: str
    operation: str
    rows: int
    batch_size: int
    calls: int


class Loop(NamedTuple):
    """Calls one after the other, for a time; answered by the latencies of those that began in it, in seconds.

    Attributes:
        begin_s: When they begin, by ``time.perf_counter()``, which is the same clock in all processes of a machine.
        end_s: When no more begin.
    """

    way: str
    operation: str
    rows: int
    begin_s: float
    end_s: float


def work(ways: Mapping[str, Mapping[str, Function]], inputs: Callable[..., Inputs], versions: Mapping[str, str]) -> None:
    """Does what it is told until stdin ends.

    Args:
        ways: Operations, by the way in which they are called.
        inputs: Of so many rows.
        versions: Of what makes the calls; said first.
    """
    # What others print goes to stderr.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def answer(value: object) -> None:
        pickle.dump(value, answers)
        answers.flush()

    cached: dict[tuple[int, int], Inputs] = {}

    def given(rows: int, batch_size: int) -> Inputs:
        if (rows, batch_size) not in cached:
            cached[rows, batch_size] = inputs(rows, batch_size)
        return cached[rows, batch_size]

    answer(versions)
    while True:
        try:
            told = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        function = ways[told.way][told.operation]
        if isinstance(told, Ask):
            answer(function(given(told.rows, told.batch_size)))
        elif isinstance(told, Times):
            answer(timed(function, given(told.rows, told.batch_size), told.calls))
        else:
            answer(_looped(function, given(told.rows, told.rows), told))


def _looped(function: Function, inputs: Inputs, told: Loop) -> list[float]:
    times = []
    time.sleep(max(0.0, told.begin_s - time.perf_counter()))
    while (begin := time.perf_counter()) < told.end_s:
        function(inputs)
        times.append(time.perf_counter() - begin)
    return times
