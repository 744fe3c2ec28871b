"""Factories of black boxes that wait where a test injects a fault."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class Gate:
    """Gate in an owner's code: a call waits there while a file exists, and makes another file meanwhile.

    Args:
        folder: Of the two files, ``closed`` and ``inside``.
    """

    def __init__(self, folder: str | Path) -> None:
        self._closed = Path(folder) / "closed"
        self._inside = Path(folder) / "inside"

    # The owner's side.

    def __call__(self) -> None:
        while self._closed.exists():
            self._inside.touch()
            time.sleep(0.005)

    # The test's side.

    def forget(self) -> None:
        """Nobody has been inside: to `wait` for who comes after the next `close`, whenever that is."""
        self._inside.unlink(missing_ok=True)

    def close(self) -> None:
        self.forget()
        self._closed.touch()

    def wait(self) -> None:
        """Until a call is inside."""
        end_s = time.monotonic() + 60
        while not self._inside.exists():
            assert time.monotonic() < end_s, "nobody came"
            time.sleep(0.005)

    def open(self) -> None:
        self._closed.unlink(missing_ok=True)


def sums(gate: str = "") -> Callable[[Any], Any]:
    """Two columns: the sum of a row, and minus it. Stops at a gate."""
    stop = Gate(gate) if gate else None

    def predict(x: Any) -> Any:
        if stop is not None:
            stop()
        total = x.reshape(len(x), -1).sum(1, dtype=np.float64)
        return np.stack([total, -total], axis=1).astype(np.float32)

    return predict


RAISES, HAS_NO_MEMORY, HANGS = -1.0, -2.0, -3.0


def moody(hangs_s: float) -> Callable[[Any], Any]:
    """Fails in the way that the first number of the rows says."""

    def predict(x: Any) -> Any:
        mood = float(x.flat[0])
        if mood == RAISES:
            raise RuntimeError("out of sorts")
        if mood == HAS_NO_MEMORY:
            raise MemoryError
        if mood == HANGS:
            time.sleep(hangs_s)
        return np.full((len(x), 2), 0.5)

    return predict


def with_small_ledger(capacity_calls: int) -> Callable[[Any], Any]:
    """`sums`, on a server that keeps only so many calls when it cannot write them."""
    from gradwire.server.store.writer import CallWriter

    CallWriter.__init__.__kwdefaults__["capacity_calls"] = capacity_calls
    return sums()


def with_clock(file: str) -> Callable[[Any], Any]:
    """`sums`, on a machine whose clock stands at the number in a file."""
    path = Path(file)
    time.time = lambda: float(path.read_text())
    return sums()
