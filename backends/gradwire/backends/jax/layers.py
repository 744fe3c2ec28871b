"""The layers of a JAX model, and their outputs."""

from __future__ import annotations

from typing import Any

from gradwire.backends import layer_names
from gradwire.backends.errors import ModelFailed
from gradwire.backends.jax.network import Network


def names(network: Network) -> list[str]:
    """Names of the top-level layers, in the order of their indices."""
    return list(network.top_layers)


def find(network: Network, layer: str | int) -> str:
    """Finds the name of a layer by its index in `names`, or by its name at any depth. Raises InvalidLayer."""
    return layer_names.find(layer, names(network), network.all_layers)


def outputs(result: Any, rows: int) -> Any:
    """Takes the outputs ``(rows, ...)`` from a model's result: an array, or the last of several, as in ART."""
    if isinstance(result, (tuple, list)) and result:
        result = result[-1]
    if not hasattr(result, "shape") or not hasattr(result, "dtype"):
        raise ModelFailed(
            f"the model returned {type(result).__name__}; expected an array, or a tuple whose last element is the outputs"
        )
    if result.shape[:1] != (rows,):
        raise ModelFailed(f"the model returned {result.shape} for {rows} rows; expected one row of outputs each")
    return result[:, None] if result.ndim == 1 else result


def layer_output(name: str, result: Any, rows: int) -> Any:
    """Takes ``(rows, ...)`` from a layer's result: an array, or the first of several. Raises InvalidLayer."""
    while isinstance(result, (tuple, list)) and result:
        result = result[0]
    if result is None:
        raise layer_names.uncalled(name)
    if not hasattr(result, "shape"):
        raise layer_names.no_tensor(name, result, "an array")
    layer_names.check_output(name, result.shape, rows)
    return result


def recording(cls: type, sink: list[Any]) -> type:
    """Makes a subclass of ``cls`` whose objects also append their results to ``sink``.

    A class of its own and not a wrapper around the object: models ask for a layer's attributes, and for its type.
    """

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = cls.__call__(self, *args, **kwargs)
        sink.append(result)
        return result

    return type(cls)(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__, "__doc__": cls.__doc__})
