"""Equinox modules as networks: a module takes one row, and is mapped over all rows together."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import jax

from gradwire.backends.errors import ModelConfigError
from gradwire.backends.jax.layers import recording
from gradwire.backends.jax.network import Network


def network(module: Any, state: Any) -> Network:
    """Makes the network of a module and its state, if ``equinox.nn.make_with_state`` made one. Raises ModelConfigError."""
    if not callable(module):
        raise ModelConfigError("factory", f"it returned {type(module).__name__}, which cannot be called; expected a model of a row")
    stateful = "state" in inspect.signature(type(module).__call__).parameters
    if stateful and state is None and type(module).__module__.partition(".")[0] != "equinox":
        raise ModelConfigError(
            "factory",
            f"{type(module).__name__} takes a state; expected (model, state), as equinox.nn.make_with_state returns them",
        )
    return EquinoxNetwork(module, state)


class EquinoxNetwork:
    """An ``equinox.Module`` that takes a row ``(*input_shape)``, with or without an ``equinox.nn.State``."""

    prefixes = ("", "")

    def __init__(self, module: Any, state: Any) -> None:
        self._eqx = importlib.import_module("equinox")
        arrays, self._static = self._eqx.partition(module, self._eqx.is_array)
        self.params, others = self._eqx.partition(arrays, self._eqx.is_inexact_array)
        self.rest = {"others": others, "state": state}
        self._takes_key = "key" in inspect.signature(type(module).__call__).parameters
        self._stateful = state is not None
        self._axis = _axis_name(self._eqx, module)
        self.has_training_mode = self.mixes_rows = self._stateful
        if any(hasattr(found, "inference") for found in _modules(self._eqx, module).values()):
            self.has_training_mode = True
        self.all_layers = [name for name in _modules(self._eqx, module) if name]
        self.top_layers = _top(self._eqx, module)

    def join(self, params: Any, rest: Any) -> Any:
        """Joins the two pytrees to the owner's module."""
        return self._eqx.combine(params, rest["others"], self._static)

    def apply(self, params: Any, rest: Any, x: Any, key: Any, training: bool) -> tuple[Any, Any]:
        """Calls the module on rows; returns its result, and ``rest`` after it."""
        outputs, _, state = self._map(self._in_mode(params, rest, training), rest["state"], x, key if training else None, [])
        return outputs, {**rest, "state": state} if training else rest

    def layer(self, params: Any, rest: Any, x: Any, key: Any, training: bool, name: str) -> Any:
        """The last output of a submodule; None if it was not called."""
        module = self._in_mode(params, rest, training)
        sink: list[Any] = []
        parts = name.split(".")
        recorder = _recorder(_at(self._eqx, module, parts), sink)
        module = self._eqx.tree_at(lambda module: _at(self._eqx, module, parts), module, recorder)
        return self._map(module, rest["state"], x, key if training else None, sink)[1]

    def probe(self, x: Any) -> None:
        """Does nothing: the module lists its layers."""

    def _in_mode(self, params: Any, rest: Any, training: bool) -> Any:
        return self._eqx.nn.inference_mode(self.join(params, rest), not training)

    def _map(self, module: Any, state: Any, x: Any, key: Any, sink: list[Any]) -> tuple[Any, Any, Any]:
        """Maps the module over rows; returns outputs, the last item of the sink, and the state afterwards."""
        # A copy: a State that has been written to cannot be used again.
        state = jax.tree.map(lambda leaf: leaf, state)

        def row(x: Any, key: Any) -> tuple[Any, Any, Any]:
            more = {"key": key} if self._takes_key else {}
            result = module(x, state, **more) if self._stateful else module(x, **more)
            outputs, after = result if self._stateful else (result, None)
            seen = sink[-1] if sink else None
            if isinstance(seen, tuple) and seen and isinstance(seen[-1], self._eqx.nn.State):
                seen = seen[0]
            return outputs, seen, after

        keys = None if key is None else jax.random.split(key, x.shape[0])
        mapped: tuple[Any, Any, Any] = jax.vmap(
            row, in_axes=(0, None if keys is None else 0), out_axes=(0, 0, None), axis_name=self._axis
        )(x, keys)
        return mapped


def _children(eqx: Any, node: Any) -> list[tuple[str, Any]]:
    if isinstance(node, eqx.Module):
        return [(name, getattr(node, name)) for name in getattr(node, "__dataclass_fields__", ()) if hasattr(node, name)]
    if isinstance(node, (list, tuple)):
        return [(str(index), inner) for index, inner in enumerate(node)]
    return [(str(name), inner) for name, inner in node.items()] if isinstance(node, dict) else []


def _modules(eqx: Any, node: Any, prefix: str = "") -> dict[str, Any]:
    """Callable modules at any depth, by the path of attributes to them; the model itself is ''."""
    found = {prefix: node} if isinstance(node, eqx.Module) and callable(node) else {}
    for name, inner in _children(eqx, node):
        found.update(_modules(eqx, inner, f"{prefix}.{name}" if prefix else name))
    return found


def _top(eqx: Any, model: Any) -> list[str]:
    """Names of the callable modules outside all other ones, in the order of attributes, not of calls."""
    inner = [name for name in _modules(eqx, model) if name]
    return [name for name in inner if not any(name.startswith(f"{other}.") for other in inner)]


def _at(eqx: Any, node: Any, parts: list[str]) -> Any:
    for part in parts:
        node = dict(_children(eqx, node))[part]
    return node


def _recorder(layer: Any, sink: list[Any]) -> Any:
    cls = recording(type(layer), sink)
    recorder: Any = object.__new__(cls)
    for name, value in vars(layer).items():
        object.__setattr__(recorder, name, value)
    return recorder


def _axis_name(eqx: Any, module: Any) -> Any:
    """The name of the axis of rows in layers that normalise over the batch."""
    names = {found.axis_name for found in _modules(eqx, module).values() if isinstance(getattr(found, "axis_name", None), str)}
    if len(names) > 1:
        raise ModelConfigError(
            "factory", f"layers name the axis of rows differently: {', '.join(sorted(names))}; expected one name"
        )
    return names.pop() if names else None
