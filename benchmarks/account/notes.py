"""When calls pass stations: functions of the client and the server note the time as they are called, or have returned."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.model import Array


class Notes:
    """When stations were passed: for each the times, in seconds of the machine's clock."""

    def __init__(self) -> None:
        self.times_s: dict[str, list[float]] = {}

    def note(self, station: str) -> None:
        """Notes that a call has come to a station."""
        self.times_s.setdefault(station, []).append(time.perf_counter())

    def at(self, owner: Any, name: str, before: str = "", after: str = "") -> None:
        """Notes whenever a function, or a coroutine, is called from now on, and has returned. Raises AttributeError."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            if before:
                self.note(before)
            result = function(*args, **kwargs)
            if after:
                self.note(after)
            return result

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            if before:
                self.note(before)
            result = await function(*args, **kwargs)
            if after:
                self.note(after)
            return result

        setattr(owner, name, awaited if inspect.iscoroutinefunction(function) else noted)


def passed(times_s: dict[str, list[float]], station: str) -> Array:
    """Whether a call came to a station, ``(calls,)``."""
    times = times_s.get(station, [])
    found: Array = np.searchsorted(times, times_s["called"]) < np.searchsorted(times, times_s["returned"])
    return found


def calls_s(times_s: dict[str, list[float]], stations: list[str], last: set[str]) -> Array:
    """The stations' times, ``(stations, calls)``. Of several in a call the first counts, at the stations in ``last`` the last.

    A call that has not come to a station gets the time of another one, and is not to be shown.
    """
    begin, end = np.array(times_s["called"]), np.array(times_s["returned"])
    at = []
    for station in stations:
        times = np.array(times_s[station])
        first = np.minimum(np.searchsorted(times, begin), len(times) - 1)
        at.append(times[np.searchsorted(times, end, "right") - 1 if station in last else first])
    return np.array(at)
