"""The weights of a network, by their paths in their pytree: read from files and written to files.

Invariant: a network gets all of its weights or keeps all that it has, each in the precision that it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradwire.backends import weights_file
from gradwire.backends.backend import Array
from gradwire.backends.errors import ModelConfigError
from gradwire.backends.jax.network import Network, is_key


def read(path: Path, trust_pickle: bool, network: Network) -> Mapping[str, Array]:
    """Reads arrays by name from a file; errors name arrays of the network as examples. Raises ModelConfigError."""
    if not path.is_file():
        raise ModelConfigError("weights", f"{path} does not exist; expected a .safetensors file")
    if path.suffix == ".safetensors":
        return read_saved(path)
    if path.suffix not in (".pkl", ".pickle"):
        raise ModelConfigError(
            "weights", f"{path} ends in {path.suffix!r}; expected .safetensors, or .pkl and .pickle with trust_pickle: true"
        )
    if not trust_pickle:
        raise ModelConfigError(
            "weights",
            f"{path} is a pickle, which can run code when it is read. Write its arrays by their names "
            f"({', '.join(list(named(network, network.params, network.rest))[:3])}, ...) with safetensors.numpy.save_file, or, if "
            "you made it yourself, set trust_pickle: true",
        )
    import pickle  # only for an owner who trusts the file

    try:
        with path.open("rb") as file:
            tree = pickle.load(file)
    except Exception as e:
        raise ModelConfigError("weights", f"{path} cannot be read: {type(e).__name__}: {e}") from e
    return {_name("", where): np.asarray(leaf) for where, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def read_saved(path: Path) -> Mapping[str, Array]:
    """Reads a file that `save` wrote, under any name. Raises ModelConfigError."""
    return weights_file.read(path)


def put(network: Network, arrays: Mapping[str, Array], source: Path) -> tuple[Any, Any]:
    """Makes ``params`` and ``rest`` of the arrays of a file. Raises ModelConfigError if names or shapes differ."""
    own = named(network, network.params, network.rest)
    weights_file.check({name: _shape(leaf) for name, leaf in own.items()}, arrays, source)

    def filled(prefix: str, tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda where, leaf: _like(leaf, arrays[_name(prefix, where)]), tree)

    return filled(network.prefixes[0], network.params), filled(network.prefixes[1], network.rest)


def save(network: Network, params: Any, rest: Any, path: Path) -> None:
    """Writes a safetensors file. Raises OSError if the disk is full."""
    weights_file.save({name: np.asarray(_data(leaf)) for name, leaf in named(network, params, rest).items()}, path)


def named(network: Network, params: Any, rest: Any) -> dict[str, Any]:
    """All arrays of a network by name, which is the path to them with dots."""
    found = {}
    for prefix, tree in zip(network.prefixes, (params, rest), strict=True):
        found.update({_name(prefix, where): leaf for where, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]})
    return found


def _name(prefix: str, where: tuple[Any, ...]) -> str:
    parts = [str(next(getattr(key, kind) for kind in ("key", "idx", "name") if hasattr(key, kind))) for key in where]
    return prefix + ".".join(parts) if parts else prefix or "params"


def _data(leaf: Any) -> Any:
    """The numbers in keys of `jax.random`, which files cannot hold as keys; other arrays as they are."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(_data(leaf).shape)


def _like(leaf: Any, array: Array) -> Any:
    if is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    return jnp.asarray(array, leaf.dtype)
