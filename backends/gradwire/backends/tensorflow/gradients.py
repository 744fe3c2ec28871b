"""Gradients with respect to the inputs, inside and outside of graphs.

Invariant: a missing gradient is an error, and never zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gradwire.backends.errors import Unsupported
from gradwire.backends.tensorflow.device import tf

# Gradients of all classes. CNN of two convolutions, 28x28x1, 10 classes, one thread, fastest of many, in ms:
# batch_jacobian / one backward a class in the same graph / the same as a loop of the graph:
# 1 row 1.4/1.7/2.6, 2 rows 2.4/2.6/3.2, 3 rows 3.0/2.7/3.3, 32 rows 30/22/30, 128 rows 124/83/116.
_JACOBIAN_MAX_ROWS = 2
# batch_jacobian computes all rows of all classes at once, which bounds its memory.
_JACOBIAN_PRODUCTS = 64
# A backward for each class makes large graphs: 256 classes of that CNN take 30 s to trace, and are 1.2 to 1.3 times faster.
_MAX_OPERATIONS = 2000


@contextmanager
def watching(x: Any, persistent: bool = False) -> Iterator[Any]:
    """Records operations on the inputs alone, so that no gradients of weights are computed."""
    with tf.GradientTape(persistent, watch_accessed_variables=False) as tape:
        tape.watch(x)
        yield tape


def of(tape: Any, differentiated: Any, x: Any, cotangent: Any = None) -> Any:
    """The cotangent (ones by default) times the Jacobian, in the shape of ``x``. Raises Unsupported if it does not exist."""
    gradient = tape.gradient(differentiated, x, cotangent)
    if gradient is None:
        # Zeros would pass for a robust model.
        raise Unsupported("TensorFlow finds no path back to the inputs: an operation in between is detached, or not differentiable")
    return tf.convert_to_tensor(gradient)


def few(rows: int, outputs: int) -> bool:
    """True if rows are so few that one Jacobian of all outputs is the fastest way."""
    return rows <= _JACOBIAN_MAX_ROWS and rows * outputs <= _JACOBIAN_PRODUCTS


def of_every_output(outputs_of: Callable[[Any], Any], x: Any, at_once: bool) -> Any:
    """Gradients of all outputs ``(n, C)``, as ``(n, C, *row)``."""
    with watching(x, persistent=True) as tape:
        outputs = outputs_of(x)
        columns = tf.unstack(outputs, axis=1)
    if tf.executing_eagerly() or (not at_once and len(x.graph.get_operations()) * len(columns) <= _MAX_OPERATIONS):
        return tf.stack([of(tape, column, x) for column in columns], axis=1)
    # batch_jacobian returns zeros for a missing gradient.
    of(tape, outputs, x)
    return tape.batch_jacobian(outputs, x, experimental_use_pfor=at_once)
