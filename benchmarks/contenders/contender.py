"""What a contender is."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeAlias

from benchmarks.model import Array, Inputs

Function: TypeAlias = Callable[[Inputs], Any]
"""One operation. Those on rows return an array; ``fit`` and ``reset``, which undoes fits, return nothing."""


class Contender(Protocol):
    """Somebody who can be measured; what it cannot do is not among its operations."""

    @property
    def name(self) -> str: ...

    @property
    def versions(self) -> Mapping[str, str]: ...

    @property
    def operations(self) -> Collection[str]: ...

    def answer(self, operation: str, inputs: Inputs) -> Array:
        """What one call returns."""
        ...

    def times_s(self, operation: str, inputs: Inputs, calls: int) -> list[float]:
        """How long each of so many calls took."""
        ...


class InThisProcess:
    """A contender whose calls are made from here."""

    def __init__(self, name: str, functions: Mapping[str, Function], versions: Mapping[str, str]) -> None:
        self.name = name
        self.versions = versions
        self._functions = functions

    @property
    def operations(self) -> Collection[str]:
        return self._functions.keys()

    def answer(self, operation: str, inputs: Inputs) -> Any:
        return self._functions[operation](inputs)

    def times_s(self, operation: str, inputs: Inputs, calls: int) -> list[float]:
        return timed(self._functions[operation], inputs, calls)


def timed(function: Function, inputs: Inputs, calls: int) -> list[float]:
    """How long each of so many calls took, in seconds."""
    times = []
    for _ in range(calls):
        begin = time.perf_counter()
        function(inputs)
        times.append(time.perf_counter() - begin)
    return times
