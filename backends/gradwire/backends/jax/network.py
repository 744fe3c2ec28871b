"""What an owner's factory returns, as pure functions of two pytrees: what an optimizer changes, and all other arrays.

What holds: a network's functions change nothing outside them, so that they can be traced once and called with any weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gradwire.backends.errors import InvalidLayer, ModelConfigError, ModelFailed


@dataclass(frozen=True)
class JaxFunction:
    """A model as JAX has it: a pure function and its parameters. What a factory may return.

    Attributes:
        predict: ``predict(params, x)`` gives outputs ``(n, C)`` or ``(n,)`` for rows ``x (n, *input_shape)``; ``jax.jit`` must
            be able to trace it, and rows must not depend on each other.
        params: A pytree of arrays.
        layers: What callers may see of the inside: functions ``(params, x)`` by name, or one function that gives a dict of
            arrays ``(n, ...)``.
        training: ``training(params, x, key)``, what takes the place of ``predict`` in training mode, with dropout say.
    """

    predict: Callable[..., Any]
    params: Any
    layers: Mapping[str, Callable[..., Any]] | Callable[..., Mapping[str, Any]] | None = None
    training: Callable[..., Any] | None = None


class Network(Protocol):
    """A model of any library of JAX. ``params`` and ``rest`` are pytrees of arrays, ``key`` is a key of `jax.random`.

    Attributes:
        params: What an optimizer may change; None in place of what it may not.
        rest: Arrays that it may not: running statistics, counters.
        prefixes: Of the names of ``params`` and ``rest`` in files.
        has_training_mode: Whether training mode differs from evaluation at all.
        mixes_rows: Whether rows see each other in training mode.
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
        """What the owner's own functions know as the parameters, or the model."""
        ...

    def apply(self, params: Any, rest: Any, x: Any, key: Any, training: bool) -> tuple[Any, Any]:
        """What the owner's model returns for rows, and ``rest`` after it; traced."""
        ...

    def layer(self, params: Any, rest: Any, x: Any, key: Any, training: bool, name: str) -> Any:
        """What a layer put out last; None if it was not called. Traced."""
        ...

    def probe(self, x: Any) -> None:
        """Learns the names of layers that only a call tells, from rows that are shapes alone."""
        ...


class PlainNetwork:
    """A function ``predict(params, x)``."""

    prefixes = ("", "")
    rest: Any

    def __init__(self, function: JaxFunction) -> None:
        self._function = function
        self.params, self.rest = partition(function.params)
        # What a function of training does nobody knows: it may normalise over the batch.
        self.has_training_mode = self.mixes_rows = function.training is not None
        self.top_layers = list(function.layers) if isinstance(function.layers, Mapping) else []
        self.all_layers = self.top_layers

    def join(self, params: Any, rest: Any) -> Any:
        return combine(params, rest)

    def apply(self, params: Any, rest: Any, x: Any, key: Any, training: bool) -> tuple[Any, Any]:
        joined = combine(params, rest)
        if training and self._function.training is not None:
            return self._function.training(joined, x, key), rest
        return self._function.predict(joined, x), rest

    def layer(self, params: Any, rest: Any, x: Any, key: Any, training: bool, name: str) -> Any:
        joined, layers = combine(params, rest), self._function.layers
        if isinstance(layers, Mapping):
            return layers[name](joined, x)
        assert layers is not None, "there are no names of layers without any"
        return layers(joined, x).get(name)

    def probe(self, x: Any) -> None:
        layers = self._function.layers
        if layers is None or isinstance(layers, Mapping):
            return
        found: list[str] = []
        # The dict that eval_shape returns has lost its order.
        jax.eval_shape(lambda params, rest, x: found.extend(layers(combine(params, rest), x)), self.params, self.rest, x)
        self.top_layers = self.all_layers = found


def partition(tree: Any) -> tuple[Any, Any]:
    """A pytree of arrays and numbers in two: arrays that have gradients, and the others; each with None for the other's.

    Raises:
        ModelConfigError: A leaf is neither.
    """

    def array(path: Any, leaf: Any) -> Any:
        if isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)):
            # A copy of what numpy holds, whose owner may write into it.
            return leaf if isinstance(leaf, jax.Array) else jnp.array(leaf)
        where = jax.tree_util.keystr(path)
        raise ModelConfigError("factory", f"the parameters hold {type(leaf).__name__} at {where or 'their root'}; expected arrays")

    arrays = jax.tree_util.tree_map_with_path(array, tree)
    params = jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) else None, arrays)
    return params, jax.tree.map(lambda leaf: None if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf, arrays)


def combine(params: Any, rest: Any) -> Any:
    """What `partition` took apart."""
    return jax.tree.map(lambda one, other: other if one is None else one, params, rest, is_leaf=lambda leaf: leaf is None)


def strong(tree: Any) -> Any:
    """The arrays of a pytree without weak types: what a step makes of them has none, and the next step would be traced anew."""
    return jax.tree.map(lambda leaf: leaf if is_key(leaf) else jnp.asarray(leaf).astype(jnp.asarray(leaf).dtype), tree)


def is_key(leaf: Any) -> bool:
    """Whether an array holds keys of `jax.random`, which are no numbers."""
    return hasattr(leaf, "dtype") and bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def outputs(result: Any, rows: int) -> Any:
    """The outputs ``(rows, ...)`` in what a model returned: itself, or the last of several, as in ART."""
    if isinstance(result, (tuple, list)) and result:
        result = result[-1]
    if not hasattr(result, "shape") or not hasattr(result, "dtype"):
        raise ModelFailed(
            f"the model returned {type(result).__name__}; expected an array, or a tuple whose last element is the outputs"
        )
    if result.shape[:1] != (rows,):
        raise ModelFailed(f"the model returned {result.shape} for {rows} rows; expected one row of outputs each")
    return result[:, None] if result.ndim == 1 else result


def find_layer(network: Network, layer: str | int) -> str:
    """The name of a layer by its index in ``top_layers``, negative ones from the end, or by its name. Raises InvalidLayer."""
    top = network.top_layers
    if isinstance(layer, str):
        if layer not in network.all_layers:
            raise InvalidLayer(f"there is no layer {layer!r}; there are {', '.join(network.all_layers) or 'none'}")
        return layer
    if not -len(top) <= layer < len(top):
        raise InvalidLayer(f"layer index {layer} is out of range; there are {len(top)} layers: {', '.join(top) or 'none'}")
    return top[layer]


def activations(result: Any, rows: int, name: str) -> Any:
    """``(rows, ...)`` in what a layer put out, of a tuple (a recurrent layer's) the first element. Raises InvalidLayer."""
    while isinstance(result, (tuple, list)) and result:
        result = result[0]
    if result is None:
        raise InvalidLayer(f"layer {name!r} is not called by the model: choose one of the modules inside it, or around it")
    if getattr(result, "shape", ())[:1] != (rows,):
        given = getattr(result, "shape", type(result).__name__)
        raise InvalidLayer(f"layer {name!r} puts out {given} for {rows} rows; expected rows first")
    return result


def recording(cls: type, sink: list[Any]) -> type:
    """A class like ``cls`` whose objects put what they return into ``sink`` as well.

    A class of its own and not a wrapper around the object: models ask for a layer's attributes, and for its type.
    """

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = cls.__call__(self, *args, **kwargs)
        sink.append(result)
        return result

    return type(cls)(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__, "__doc__": cls.__doc__})
