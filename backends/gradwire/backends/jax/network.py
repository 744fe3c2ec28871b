"""JAX models as networks: pure functions of two pytrees, of the arrays that an optimizer changes and of the others.

Invariant: a network's functions have no side effects, so that they can be traced once and called with any weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gradwire.backends.errors import ModelConfigError


@dataclass(frozen=True)
class JaxFunction:
    """A pure function and its parameters, which a factory may return as a model.

    Attributes:
        predict: ``predict(params, x)`` gives outputs ``(n, C)`` or ``(n,)`` for rows ``x (n, *input_shape)``; ``jax.jit`` must
            be able to trace it, and rows must not depend on each other.
        params: A pytree of arrays.
        layers: The layers that callers may see: functions ``(params, x)`` by name, or one function that returns a dict of
            arrays ``(n, ...)``.
        training: ``training(params, x, key)``, which replaces ``predict`` in training mode, with dropout for example.
    """

    predict: Callable[..., Any]
    params: Any
    layers: Mapping[str, Callable[..., Any]] | Callable[..., Mapping[str, Any]] | None = None
    training: Callable[..., Any] | None = None


class Network(Protocol):
    """A model of any library of JAX. ``params`` and ``rest`` are pytrees of arrays, ``key`` is a key of `jax.random`.

    Attributes:
        params: Arrays that an optimizer may change; None in place of the others.
        rest: Arrays that an optimizer may not change: running statistics, counters.
        prefixes: Of the names of ``params`` and ``rest`` in files.
        has_training_mode: Whether training mode differs from evaluation at all.
        mixes_rows: Whether rows depend on each other in training mode.
        top_layers: Names in the order of their indices; empty until `probe`.
        all_layers: Names at any depth.
    """

    params: Any
    rest: Any
    prefixes: tuple[str, str]
    has_training_mode: bool
    mixes_rows: bool
    top_layers: list[str]
    all_layers: list[str]

    def join(self, params: Any, rest: Any) -> Any:
        """Joins the two pytrees to the parameters, or the model, of the owner's own functions."""
        ...

    def apply(self, params: Any, rest: Any, x: Any, key: Any, training: bool) -> tuple[Any, Any]:
        """Calls the owner's model on rows; returns its result, and ``rest`` after it. Traced."""
        ...

    def layer(self, params: Any, rest: Any, x: Any, key: Any, training: bool, name: str) -> Any:
        """The last output of a layer; None if it was not called. Traced."""
        ...

    def probe(self, x: Any) -> None:
        """Finds the names of layers that only a call shows, by tracing rows that are shapes alone."""
        ...


class PlainNetwork:
    """A function ``predict(params, x)``."""

    prefixes = ("", "")
    rest: Any

    def __init__(self, function: JaxFunction) -> None:
        self._function = function
        self.params, self.rest = partition(function.params)
        # A function of training may normalise over the batch.
        self.has_training_mode = self.mixes_rows = function.training is not None
        self.top_layers = list(function.layers) if isinstance(function.layers, Mapping) else []
        self.all_layers = self.top_layers

    def join(self, params: Any, rest: Any) -> Any:
        """The owner's pytree of parameters."""
        return combine(params, rest)

    def apply(self, params: Any, rest: Any, x: Any, key: Any, training: bool) -> tuple[Any, Any]:
        """Calls ``predict``, or ``training``."""
        joined = combine(params, rest)
        if training and self._function.training is not None:
            return self._function.training(joined, x, key), rest
        return self._function.predict(joined, x), rest

    def layer(self, params: Any, rest: Any, x: Any, key: Any, training: bool, name: str) -> Any:
        """Calls the function of a layer."""
        joined, layers = combine(params, rest), self._function.layers
        if isinstance(layers, Mapping):
            return layers[name](joined, x)
        assert layers is not None, "names of layers come from functions"
        return layers(joined, x).get(name)

    def probe(self, x: Any) -> None:
        """Finds the names of layers that one function returns."""
        layers = self._function.layers
        if layers is None or isinstance(layers, Mapping):
            return
        found: list[str] = []
        # The dict that eval_shape returns has lost its order.
        jax.eval_shape(lambda params, rest, x: found.extend(layers(combine(params, rest), x)), self.params, self.rest, x)
        self.top_layers = self.all_layers = found


def partition(tree: Any) -> tuple[Any, Any]:
    """Splits a pytree into arrays that have gradients and the others, each with None in place of the other's.

    Raises:
        ModelConfigError: A leaf is neither an array nor a number.
    """

    def array(path: Any, leaf: Any) -> Any:
        if isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)):
            # A copy of numpy's arrays, because their owner may write into them.
            return leaf if isinstance(leaf, jax.Array) else jnp.array(leaf)
        where = jax.tree_util.keystr(path)
        raise ModelConfigError("factory", f"the parameters hold {type(leaf).__name__} at {where or 'their root'}; expected arrays")

    arrays = jax.tree_util.tree_map_with_path(array, tree)
    params = jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, arrays)
    return params, jax.tree.map(lambda leaf: None if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf, arrays)


def combine(params: Any, rest: Any) -> Any:
    """Joins the two pytrees that `partition` made."""
    return jax.tree.map(lambda one, other: other if one is None else one, params, rest, is_leaf=lambda leaf: leaf is None)


def strong(tree: Any) -> Any:
    """Removes weak types from a pytree: arrays after a step have none, and the next step would be traced again."""
    return jax.tree.map(lambda leaf: leaf if is_key(leaf) else jnp.asarray(leaf).astype(jnp.asarray(leaf).dtype), tree)


def is_key(leaf: Any) -> bool:
    """True if an array holds keys of `jax.random`, which are no numbers."""
    return hasattr(leaf, "dtype") and bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
