"""Cotangents and class labels of gradients, checked against the model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.errors import InvalidLabel, InvalidShape, Unsupported


def check_columns(shape: Sequence[Any]) -> None:
    """Raises Unsupported if outputs of a shape ``(n, *row)`` are not ``(n, C)``, for which class gradients are defined."""
    if len(shape) != 2:
        raise Unsupported(f"the model's outputs have shape {tuple(shape)}; class gradients are of outputs (n, C)")


def check_label(label: Array, nb_outputs: int) -> None:
    """Raises InvalidLabel if a label of a class gradient is not a column of the outputs."""
    if label.max() >= nb_outputs:
        raise InvalidLabel(f"label {label.max()} is out of range; the model has {nb_outputs} output(s), counted from 0")


def check_cotangent(cotangent: Array, expected: Sequence[Any], layer: str | int | None) -> None:
    """Raises InvalidShape if a cotangent has not the shape of the outputs, or of the layer's output."""
    if cotangent.shape != tuple(expected):
        what = "outputs" if layer is None else f"layer {layer!r}"
        raise InvalidShape(f"cotangent has shape {cotangent.shape}; expected {tuple(expected)}, as the {what}")


def by_repeating(
    gradient_of_labels: Callable[[Array, Array], Array], x: Array, nb_outputs: int, dtype: np.dtype[Any], max_classes: int
) -> Array:
    """Gradients of every output, ``(n, C, *row)``, from one gradient of each row repeated for each class.

    Args:
        gradient_of_labels: The gradients of one output a row, for rows and the indices of the outputs.
        x: ``(n, *row)``.
        nb_outputs: ``C``.
        dtype: Of the result.
        max_classes: How many classes are computed at once, which bounds the memory.
    """
    n, row = len(x), x.shape[1:]
    result = np.empty((n, nb_outputs, *row), dtype)
    for first in range(0, nb_outputs, max_classes):
        classes = np.arange(first, min(first + max_classes, nb_outputs))
        repeated = x if len(classes) == 1 else np.repeat(x, len(classes), axis=0)
        result[:, classes] = gradient_of_labels(repeated, np.tile(classes, n)).reshape(n, len(classes), *row)
    return result
