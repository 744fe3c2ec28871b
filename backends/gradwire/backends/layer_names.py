"""Look-up of layers by name or index, and the checks of their outputs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gradwire.backends.errors import InvalidLayer


def find(layer: str | int, top: Sequence[str], every: Collection[str]) -> str:
    """Finds a layer's name.

    Args:
        layer: An index in ``top``, negative ones from the end, or a name in ``every``.
        top: Names in the order of their indices.
        every: Names at any depth.

    Raises:
        InvalidLayer: The model has no such layer.
    """
    if isinstance(layer, str):
        if layer not in every:
            raise unknown(layer, top, every)
        return layer
    if not -len(top) <= layer < len(top):
        raise InvalidLayer(f"layer index {layer} is out of range; there are {len(top)} layers: {listed(top)}")
    return top[layer]


def unknown(layer: str, top: Sequence[str], every: Collection[str]) -> InvalidLayer:
    """The error for a name that no layer has."""
    deeper = next((name for name in every if name not in top), None)
    return InvalidLayer(f"there is no layer {layer!r}; there are {listed(top)}{f'; inside these, e.g. {deeper}' if deeper else ''}")


def uncalled(name: str) -> InvalidLayer:
    """The error for a layer that the model does not call."""
    return InvalidLayer(f"layer {name!r} is not called by the model: choose one of the layers inside it, or around it")


def no_tensor(name: str, output: object, expected: str) -> InvalidLayer:
    """The error for a layer whose output is no tensor of the framework."""
    return InvalidLayer(f"layer {name!r} puts out {type(output).__name__}; expected {expected}")


def check_output(name: str, shape: Sequence[int], rows: int) -> None:
    """Raises InvalidLayer if a layer's output has no axis of rows in front."""
    if tuple(shape[:1]) != (rows,):
        raise InvalidLayer(f"layer {name!r} puts out {tuple(shape)} for {rows} rows; expected rows first")


def listed(names: Sequence[str]) -> str:
    """The names of layers as errors list them."""
    return ", ".join(names) or "none"
