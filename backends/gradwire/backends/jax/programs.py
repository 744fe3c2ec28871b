"""Compiled functions of one model, and the scope that they are traced and called in.

Invariant: a function is traced once for each size of `padded_rows`, not for each number of rows that callers send. Weights are
arguments, so that a fit does not change the programs. The scope does not affect other models of the process.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import jax
import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.errors import OutOfMemory

# Rows whose axes are of any size (-1), and fits in batches that cannot be padded, may ask for any number of shapes.
_KEPT = 64
"""The number of shapes of one program that are kept compiled; one more clears them."""


def padded_rows(rows: int, max_batch_rows: int) -> int:
    """The number of rows that a program computes: the next power of two, or ``max_batch_rows`` if that is less.

    More rows than ``max_batch_rows``, as in a fit, go by powers of two too.
    """
    power = 1 << (rows - 1).bit_length()
    return max_batch_rows if rows <= max_batch_rows < power else power


def padded(x: Array, rows: int) -> Array:
    """Pads an array to ``rows`` rows by repeating the first.

    Zeros would not do: a model may divide by them, and some optimizers' checks would see the NaN.
    """
    if len(x) == rows:
        return x
    result = np.empty((rows, *x.shape[1:]), x.dtype)
    result[: len(x)] = x
    result[len(x) :] = x[0]
    return result


class Programs:
    """The programs that a model has compiled so far, by name. Not thread-safe.

    Attributes:
        traces: The number of traces, and so of compilations, since the model was loaded.
    """

    def __init__(self) -> None:
        self.traces = 0
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    def get(self, name: Hashable, function: Callable[..., Any]) -> Callable[..., Any]:
        """The program of a name, compiled from ``function`` at its first use."""
        program = self._compiled.get(name)
        if program is None:
            program = self._compiled[name] = self._jit(function)
        return program

    def _jit(self, function: Callable[..., Any]) -> Any:
        kept = 0

        def traced(*args: Any) -> Any:
            nonlocal kept
            self.traces += 1
            if kept == _KEPT:
                compiled.clear_cache()
                kept = 0
            kept += 1
            return function(*args)

        compiled: Any = jax.jit(traced)
        return compiled


class Scope(AbstractContextManager[None]):
    """The context that a model is loaded and called in: sets its precision in this thread, and translates JAX's errors.

    ``jax_enable_x64`` for the whole process would change the models beside it.
    """

    __slots__ = ("_precision", "_x64")

    def __init__(self, x64: bool) -> None:
        self._x64 = x64

    def __enter__(self) -> None:
        self._precision = enabled_x64() if self._x64 else None
        if self._precision is not None:
            self._precision.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._precision is not None:
            self._precision.__exit__(kind, error, trace)
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
            raise OutOfMemory(
                "the device has no memory left for so many rows; send fewer, or set a smaller max_batch_rows"
            ) from error


def enabled_x64() -> AbstractContextManager[Any]:
    """Enables float64 and int64 in this thread; each version of JAX has one of two names for it."""
    if jax.config.jax_enable_x64:
        return nullcontext()
    enable = getattr(jax, "enable_x64", None)
    if enable is None:
        enable = importlib.import_module("jax.experimental").enable_x64
    scope: AbstractContextManager[Any] = enable(True)
    return scope
