"""Recording of times at stations: functions of client and server record when they are called or return."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.model import Array


class Notes:
    """Times at which calls passed each station, in seconds of the machine's clock."""

    def __init__(self) -> None:
        self.times_s: dict[str, list[float]] = {}

    def note(self, station: str) -> None:
        """Records that a call has reached a station."""
        self.times_s.setdefault(station, []).append(time.perf_counter())

    def at(self, owner: Any, name: str, before: str = "", after: str = "") -> None:
        """Records each later call of a function or coroutine.

        Args:
            owner: The module or class that has the function.
            name: Its name. Raises AttributeError if the owner has no such function.
            before: Station to record when it is called.
            after: Station to record when it has returned.
        """
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
    """Computes for each call if it reached a station, ``(calls,)``."""
    times = times_s.get(station, [])
    found: Array = np.searchsorted(times, times_s["called"]) < np.searchsorted(times, times_s["returned"])
    return found


def calls_s(times_s: dict[str, list[float]], stations: list[str], last: set[str]) -> Array:
    """Finds the time of each call at each station, ``(stations, calls)``.

    If a call passes a station several times, the first counts, at the stations in ``last`` the last. A call that has not reached a
    station gets the time of another call, and must not be shown.
    """
    begin, end = np.array(times_s["called"]), np.array(times_s["returned"])
    at = []
    for station in stations:
        times = np.array(times_s[station])
        first = np.minimum(np.searchsorted(times, begin), len(times) - 1)
        at.append(times[np.searchsorted(times, end, "right") - 1 if station in last else first])
    return np.array(at)
