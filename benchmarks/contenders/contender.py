"""The interface of contenders, and contenders in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeAlias

from benchmarks.model import Array, Inputs

Function: TypeAlias = Callable[[Inputs], Any]
"""One operation. Those on rows return an array; ``fit``, and ``reset``, which undoes fits, return nothing."""

PEER_OPERATIONS = ("predict", "loss_gradient")
"""The operations that the other servers serve."""


class Contender(Protocol):
    """An implementation that can be measured."""

    @property
    def name(self) -> str:
        """Its name in reports."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of its packages."""
        ...

    @property
    def operations(self) -> Collection[str]:
        """The operations that it implements."""
        ...

    def answer(self, operation: str, inputs: Inputs) -> Array:
        """Makes one call and returns its result."""
        ...

    def times_s(self, operation: str, inputs: Inputs, calls: int) -> list[float]:
        """Makes a number of calls and returns the seconds that each took."""
        ...


class InThisProcess:
    """A contender that is called in this process.

    Args:
        name: Its name in reports.
        functions: Its operations.
        versions: Versions of its packages.
    """

    def __init__(self, name: str, functions: Mapping[str, Function], versions: Mapping[str, str]) -> None:
        self.name = name
        self.versions = versions
        self._functions = functions

    @property
    def operations(self) -> Collection[str]:
        """The operations that it implements."""
        return self._functions.keys()

    def answer(self, operation: str, inputs: Inputs) -> Any:
        """Makes one call and returns its result."""
        return self._functions[operation](inputs)

    def times_s(self, operation: str, inputs: Inputs, calls: int) -> list[float]:
        """Makes a number of calls and returns the seconds that each took."""
        return timed(self._functions[operation], inputs, calls)


def timed(function: Function, inputs: Inputs, calls: int) -> list[float]:
    """Calls a function a number of times and returns the seconds that each call took."""
    times = []
    for _ in range(calls):
        begin = time.perf_counter()
        function(inputs)
        times.append(time.perf_counter() - begin)
    return times
