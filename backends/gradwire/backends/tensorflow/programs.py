"""Functions compiled into TensorFlow graphs, each once, for any number of rows.

Invariant: a function is traced once, for all sizes of its arguments. A function that cannot be traced runs eagerly, operation
by operation, and `Graphs.untraced` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from gradwire.backends.backend import Array
from gradwire.backends.errors import BackendError
from gradwire.backends.tensorflow.device import tf


class Graphs:
    """The compiled functions of one model.

    Args:
        device: The context that functions are traced and called in.
    """

    def __init__(self, device: Callable[[], AbstractContextManager[Any]]) -> None:
        self._device = device
        # Calls go to the concrete function: without the choice among traces, one row of a CNN takes 0.36 in place of 0.48 ms.
        self._made: dict[Hashable, Callable[..., Any]] = {}
        self._traced: dict[Hashable, Any] = {}
        self.untraced: list[Hashable] = []

    def __contains__(self, key: Hashable) -> bool:
        return key in self._made

    def __call__(self, key: Hashable, *arrays: Array) -> Any:
        """Calls a compiled function with contiguous arrays of its specs' dtypes. Returns a tensor."""
        with self._device():
            return self._made[key](*map(tf.constant, arrays))

    def make(self, key: Hashable, function: Callable[..., Any], specs: Sequence[Any]) -> None:
        """Compiles a function of tensors, without calling it.

        Args:
            key: The name to call it by.
            function: What to compile. Errors of gradwire that it raises pass.
            specs: The ``tf.TensorSpec`` of each argument; a size of None may be any.
        """
        # Without AutoGraph: it wraps every error in its own, and owners who need it have put tf.function where they do.
        traced = tf.function(function, input_signature=list(specs), autograph=False)
        made: Callable[..., Any]
        try:
            with self._device():
                made = traced.get_concrete_function()
        except BackendError:
            raise
        except Exception:
            # An error of the owner's code is raised again when the function runs; one of tracing alone is not.
            made = function
            self.untraced.append(key)
        else:
            self._traced[key] = traced
        self._made[key] = made

    def variables(self, key: Hashable) -> list[Any]:
        """The variables that a compiled function and the functions that it calls read or write."""
        return list(self._traced[key].get_concrete_function().graph.variables) if key in self._traced else []

    def traces(self) -> int:
        """The number of traces of all functions, as TensorFlow counts them."""
        return sum(traced.experimental_get_tracing_count() for traced in self._traced.values())


def spec_of(array: Array) -> Any:
    """The spec of arrays with any number of rows that are otherwise like this one."""
    return tf.TensorSpec([None, *array.shape[1:]], array.dtype)
