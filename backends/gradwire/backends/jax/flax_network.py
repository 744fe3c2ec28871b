"""Flax modules as networks: linen's, which come with their variables, and nnx's, which hold them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradwire.backends.errors import ModelConfigError
from gradwire.backends.jax.layers import recording
from gradwire.backends.jax.network import Network, combine, partition

_TRUE_IN_TRAINING = ("train", "training", "is_training")
_FALSE_IN_TRAINING = ("deterministic", "use_running_average", "inference", "eval_mode")
"""Names of the argument that sets the mode of linen modules; other names are not in use."""


def network(module: Any, variables: Any) -> Network:
    """Makes the network of a linen module and its variables, or of an nnx module. Raises ModelConfigError."""
    if any(cls.__module__.startswith("flax.nnx") for cls in type(module).__mro__):
        return NnxNetwork(module)
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise ModelConfigError(
            "factory",
            f"it returned the Flax module {type(module).__name__} without its variables; expected (module, variables), "
            "the latter as module.init returns them: {'params': ...}",
        )
    return LinenNetwork(module, variables)


class LinenNetwork:
    """A ``flax.linen.Module`` and its variables; training changes collections other than 'params' too."""

    prefixes = ("params.", "")

    def __init__(self, module: Any, variables: Mapping[str, Any]) -> None:
        self._module = module
        collections = {name: _plain(collection) for name, collection in variables.items() if name != "intermediates"}
        params, fixed = partition(collections.pop("params"))
        statistics = jax.tree.map(jnp.asarray, collections)
        self.params = params
        # An optimizer may not change integers among the parameters.
        self.rest = {**statistics, "params": fixed} if jax.tree.leaves(fixed) else statistics
        self._collections = list(statistics)
        self._mode = _mode_argument(module)
        self.has_training_mode = bool(self._mode or self._collections)
        self.mixes_rows = bool(self._collections)
        self.top_layers: list[str] = []
        self.all_layers: list[str] = []

    def join(self, params: Any, rest: Any) -> Any:
        """Joins the two pytrees to the owner's variables."""
        return {**rest, "params": combine(params, rest["params"]) if "params" in rest else params}

    def apply(self, params: Any, rest: Any, x: Any, key: Any, training: bool) -> tuple[Any, Any]:
        """Calls the module on rows; returns its result, and ``rest`` after it."""
        return self._apply(params, rest, x, key, training)

    def layer(self, params: Any, rest: Any, x: Any, key: Any, training: bool, name: str) -> Any:
        """The last output of a submodule; None if it was not called."""

        def wanted(module: Any, method: str) -> bool:
            return method == "__call__" and ".".join(module.path) == name

        found: Any = self._apply(params, rest, x, key, training, wanted)[1].get("intermediates", {})
        for part in (*name.split("."), "__call__"):
            found = found.get(part, {})
        # One for each call of the module.
        return found[-1] if found else None

    def probe(self, x: Any) -> None:
        """Finds the names of submodules by tracing a call."""
        called: dict[str, None] = {}

        def see(module: Any, method: str) -> bool:
            if method == "__call__" and module.path:
                called[".".join(module.path)] = None
            return False

        jax.eval_shape(lambda params, rest, x: self._apply(params, rest, x, None, False, see)[0], self.params, self.rest, x)
        self.all_layers = list(called)
        self.top_layers = [name for name in called if "." not in name]

    def _apply(self, params: Any, rest: Any, x: Any, key: Any, training: bool, capture: Any = False) -> tuple[Any, Any]:
        mode = {} if self._mode is None else {self._mode: training == (self._mode in _TRUE_IN_TRAINING)}
        # Enough for all names that layers draw under: linen takes the key of 'params' for names that are not given.
        rngs = {"params": key, "dropout": jax.random.fold_in(key, 1)} if training else None
        mutable = self._collections if training else []
        result = self._module.apply(
            self.join(params, rest), x, **mode, rngs=rngs, mutable=mutable or False, capture_intermediates=capture
        )
        if not mutable and not capture:
            return result, rest
        outputs, changed = result
        return outputs, {**rest, **changed}


class NnxNetwork:
    """A ``flax.nnx.Module``; its keys of `jax.random` are replaced for every call in training mode."""

    prefixes = ("", "")

    def __init__(self, module: Any) -> None:
        self._nnx = importlib.import_module("flax.nnx")
        self._definition, params, keys, rest = self._nnx.split(module, self._nnx.Param, self._nnx.RngState, ...)
        self._params, self._keys, self._rest = params, keys, rest
        self.params, fixed = partition(self._nnx.to_pure_dict(params))
        self.rest = {"fixed": fixed, "statistics": jax.tree.map(jnp.asarray, self._nnx.to_pure_dict(rest))}
        self.has_training_mode = bool(jax.tree.leaves((keys, rest)))
        self.mixes_rows = bool(jax.tree.leaves(rest))
        modules = {".".join(map(str, path)): found for path, found in self._nnx.iter_modules(module) if path and callable(found)}
        self._root = module
        self.all_layers = sorted(modules, key=lambda name: [_order(part) for part in name.split(".")])
        self.top_layers = self._in_order(module)

    def join(self, params: Any, rest: Any) -> Any:
        """Joins the two pytrees to the owner's module."""
        return self._merged(params, rest, None)

    def apply(self, params: Any, rest: Any, x: Any, key: Any, training: bool) -> tuple[Any, Any]:
        """Calls the module on rows; returns its result, and ``rest`` after it."""
        module = self._merged(params, rest, key if training else None)
        result = module(x)
        if not training:
            return result, rest
        _, _, _, changed = self._nnx.split(module, self._nnx.Param, self._nnx.RngState, ...)
        return result, {**rest, "statistics": self._nnx.to_pure_dict(changed)}

    def layer(self, params: Any, rest: Any, x: Any, key: Any, training: bool, name: str) -> Any:
        """The last output of a submodule; None if it was not called."""
        module = self._merged(params, rest, key if training else None)
        sink: list[Any] = []
        layer = {".".join(map(str, path)): found for path, found in self._nnx.iter_modules(module)}[name]
        # The module is of this trace alone.
        layer.__class__ = recording(type(layer), sink)
        module(x)
        return sink[-1] if sink else None

    def probe(self, x: Any) -> None:
        """Does nothing: the module lists its layers."""

    def _merged(self, params: Any, rest: Any, key: Any) -> Any:
        filled = [self._filled(self._params, combine(params, rest["fixed"])), self._filled(self._rest, rest["statistics"])]
        keys, structure = jax.tree.flatten(self._keys)
        if key is not None:
            keys = [
                jax.random.fold_in(key, index) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
                for index, leaf in enumerate(keys)
            ]
        module = self._nnx.merge(self._definition, filled[0], jax.tree.unflatten(structure, keys), filled[1])
        if key is None:
            module.eval()
        else:
            module.train()
        return module

    def _filled(self, state: Any, arrays: Any) -> Any:
        # A copy of the structure: the state's own variables are the owner's.
        filled = jax.tree.map(lambda leaf: leaf, state)
        self._nnx.replace_by_pure_dict(filled, arrays)
        return filled

    def _in_order(self, module: Any) -> list[str]:
        """Modules outside all other ones, in the order of the module's attributes, with those in lists and dicts."""
        inner = [path for path, found in self._nnx.iter_modules(module) if path and callable(found)]
        top = [path for path in inner if not any(path[: len(other)] == other for other in inner if len(other) < len(path))]
        order = list(vars(module))
        top.sort(key=lambda path: (order.index(path[0]) if path[0] in order else len(order), [_order(str(p)) for p in path[1:]]))
        return [".".join(map(str, path)) for path in top]


def _mode_argument(module: Any) -> str | None:
    arguments = inspect.signature(type(module).__call__).parameters
    return next((name for name in (*_TRUE_IN_TRAINING, *_FALSE_IN_TRAINING) if name in arguments), None)


def _plain(tree: Any) -> Any:
    """Nested dicts in place of a FrozenDict, a pytree of its own kind, which the functions here do not return."""
    return {name: _plain(inner) for name, inner in tree.items()} if isinstance(tree, Mapping) else tree


def _order(part: str) -> tuple[bool, int, str]:
    return (not part.isdigit(), int(part) if part.isdigit() else 0, part)
