"""Client process of a contender, which makes and times calls on request, so that contenders can take turns.

Requests are pickles on stdin, and answers are pickles on stdout. The module needs numpy alone.
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

_READY_S = 60


class Ask(NamedTuple):
    """A request for one call and its result."""

    way: str
    operation: str
    rows: int
    batch_size: int


class Times(NamedTuple):
    """A request for a number of calls, answered by the seconds that each took."""

    way: str
    operation: str
    rows: int
    batch_size: int
    calls: int


class Loop(NamedTuple):
    """A request for calls one after the other, for a time; answered by their latencies, in seconds.

    Attributes:
        way: The way of calling.
        operation: The operation.
        rows: Rows of a call.
        begin_s: Time of the first call by ``time.perf_counter()``, which is the same clock in all processes of a machine.
        end_s: Time after which no more calls begin.
    """

    way: str
    operation: str
    rows: int
    begin_s: float
    end_s: float


def work(ways: Mapping[str, Mapping[str, Function]], inputs: Callable[..., Inputs], versions: Mapping[str, str]) -> None:
    """Answers requests until stdin ends.

    Args:
        ways: Operations, by way of calling.
        inputs: Makes the inputs for a number of rows.
        versions: Versions of the client's packages; they are sent first.
    """
    # Prints of libraries go to stderr.
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


def wait_for(ready: Callable[[], bool], not_yet: type[Exception]) -> None:
    """Asks a server repeatedly until it is ready.

    Args:
        ready: Asks once.
        not_yet: The error that ``ready`` may raise meanwhile; after a minute it is passed on.
    """
    until_s = time.monotonic() + _READY_S
    while True:
        try:
            if ready():
                return
        except not_yet:
            if time.monotonic() > until_s:
                raise
        time.sleep(0.2)


def _looped(function: Function, inputs: Inputs, told: Loop) -> list[float]:
    times = []
    time.sleep(max(0.0, told.begin_s - time.perf_counter()))
    while (begin := time.perf_counter()) < told.end_s:
        function(inputs)
        times.append(time.perf_counter() - begin)
    return times
