"""Labels and targets in the shapes that losses take, checked against the model's outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire.backends import labels
from gradwire.backends.backend import Array
from gradwire.backends.errors import InvalidLabel


def like_outputs(y: Array, row: tuple[int, ...]) -> Array:
    """Regression targets in the shape of the outputs ``(n, *row)``. Raises InvalidLabel if the sizes differ."""
    # Broadcasting (n,) against (n, 1) would make n x n losses of n.
    if y.size != len(y) * int(np.prod(row)):
        raise InvalidLabel(f"targets have shape {y.shape}; expected {(len(y), *row)}, as the outputs")
    return y.reshape(len(y), *row)


def floating_rows(y: Array, width: int, dtype: np.dtype[Any]) -> Array:
    """Labels as rows ``(n, width)``, as in ART: one-hot or soft, and for a single output the weight of class 1.

    Args:
        y: As `labels.canonical` returns them.
        width: How many outputs the model has.
        dtype: Of one-hot rows; soft rows keep theirs.

    Raises:
        InvalidLabel: The labels are of more classes than the model has outputs.
    """
    if width == 1:
        return (y if y.ndim == 1 else y[:, 1])[:, None]
    if (y.shape[1] if y.ndim == 2 else y.max() + 1) > width:
        raise InvalidLabel(f"labels are of more classes than the model's {width} outputs")
    return y if y.ndim == 2 else labels.one_hot(y, width, dtype)


def check_indices(y: Array, width: int, loss_name: str) -> None:
    """Raises InvalidLabel if a class index has no output."""
    if y.max() >= width:
        raise InvalidLabel(f"label {y.max()} for {width} outputs; {loss_name} expects one output a class")


def check_soft_width(y: Array, width: int) -> None:
    """Raises InvalidLabel if soft labels are not as wide as the outputs."""
    if y.shape[1] != width:
        raise InvalidLabel(f"labels are rows of {y.shape[1]} classes; the model has {width} outputs")


def soft_refused(y: Array, loss_name: str, option: str = "") -> InvalidLabel:
    """The error for soft labels that a loss, perhaps because of an option, does not take."""
    because = f"with {option}, " if option else ""
    return InvalidLabel(f"labels are soft, {y.shape}; {because}{loss_name} takes class indices or one-hot rows only")
