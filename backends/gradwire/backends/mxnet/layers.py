"""The layers of a Gluon block, and their outputs.

Invariant: no hook outlives the block that needed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gradwire.backends import layer_names
from gradwire.backends.errors import ModelFailed
from gradwire.backends.mxnet.device import mx


def names(block: Any) -> list[str]:
    """Names of the blocks directly inside, in the order of their indices."""
    return list(block._children)


def find(block: Any, layer: str | int) -> tuple[str, Any]:
    """Finds a layer by its index in `names`, or by its name at any depth, e.g. ``body.0``. Raises InvalidLayer."""
    found = every(block)
    name = layer_names.find(layer, names(block), found)
    return name, found[name]


def outputs(result: Any, rows: int) -> Any:
    """Takes the outputs ``(rows, ...)`` from a block's result. Raises ModelFailed if it is something else."""
    if not isinstance(result, mx.nd.NDArray):
        raise ModelFailed(
            f"the block returned {type(result).__name__}; expected an NDArray, or a tuple whose last element is the outputs"
        )
    if result.shape[:1] != (rows,):
        raise ModelFailed(f"the block returned {result.shape} for {rows} rows; expected one row of outputs each")
    return result.expand_dims(1) if result.ndim == 1 else result


def layer_output(name: str, result: Any, rows: int) -> Any:
    """The output ``(rows, ...)`` of a layer. Raises InvalidLayer if it has no axis of rows in front."""
    if not isinstance(result, mx.nd.NDArray):
        raise layer_names.no_tensor(name, result, "an NDArray")
    layer_names.check_output(name, result.shape, rows)
    return result


def every(block: Any) -> dict[str, Any]:
    """The blocks at any depth, by their names."""
    return dict(_descendants(block))


@contextmanager
def capturing(layers: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Keeps the last outputs of layers by name while the block runs; the first element of a tuple."""
    captured: dict[str, Any] = {}

    def hook(name: str) -> Any:
        def catch(_block: Any, _inputs: Any, output: Any) -> None:
            captured[name] = first(output)

        return catch

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.detach()


def last(result: Any) -> Any:
    """The last of several results, as in ART."""
    while isinstance(result, (tuple, list)) and result:
        result = result[-1]
    several = isinstance(result, mx.sym.Symbol) and len(result.list_outputs()) > 1
    return result[len(result.list_outputs()) - 1] if several else result


def first(result: Any) -> Any:
    """The first of several results, as of a recurrent layer."""
    while isinstance(result, (tuple, list)) and result:
        result = result[0]
    several = isinstance(result, mx.sym.Symbol) and len(result.list_outputs()) > 1
    return result[0] if several else result


def _descendants(block: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, child in block._children.items():
        yield prefix + name, child
        yield from _descendants(child, f"{prefix}{name}.")
