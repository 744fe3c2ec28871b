"""Label forms, and the one canonical form for backends.

Callers send indices ``(n,)`` or ``(n, 1)`` of any integer dtype (floats that are whole numbers too), or rows ``(n, C)``,
one-hot or soft. Backends get int64 indices ``(n,)``, or floating rows ``(n, C)`` that are not one-hot. One-hot rows
become indices: a loss of indices is cheaper than one of rows, and the two are equal.
"""

from __future__ import annotations

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.errors import InvalidDtype, InvalidLabel


def canonical(y: Array, rows: int, nb_classes: int) -> Array:
    """Converts labels to the form that backends take.

    Args:
        y: ``(n,)`` or ``(n, 1)`` indices, or ``(n, nb_classes)`` rows.
        rows: Number of rows of the inputs.
        nb_classes: Number of classes; indices run from 0 to ``nb_classes - 1``.

    Returns:
        int64 ``(n,)``, or float64/float32 ``(n, nb_classes)`` if any row is not one-hot.

    Raises:
        InvalidLabel: A label is NaN, out of range or not whole; or the shape is none of these.
        InvalidDtype: The labels are not numbers.
    """
    if y.dtype.kind not in "biuf":
        raise InvalidDtype(f"labels have dtype {y.dtype}; expected integers, or floats for soft labels")
    if y.shape[:1] != (rows,):
        raise InvalidLabel(f"labels have shape {y.shape} for {rows} rows; expected one label a row")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise InvalidLabel("labels hold NaN or infinity; expected class indices or class weights")
    if y.ndim == 2 and y.shape[1] == nb_classes and nb_classes > 1:
        return _from_rows(y)
    if y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1):
        return _indices(y.reshape(rows), nb_classes)
    raise InvalidLabel(f"labels have shape {y.shape}; expected ({rows},) or ({rows}, 1) indices, or ({rows}, {nb_classes}) rows")


def targets(y: Array, rows: int) -> Array:
    """Converts regression targets to the form that backends take: floating, one row each. Raises as `canonical`."""
    if y.dtype.kind not in "biuf":
        raise InvalidDtype(f"targets have dtype {y.dtype}; expected numbers")
    if y.shape[:1] != (rows,):
        raise InvalidLabel(f"targets have shape {y.shape} for {rows} rows; expected one row of targets each")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise InvalidLabel("targets hold NaN or infinity; expected finite numbers")
    return y if y.dtype.kind == "f" else y.astype(np.float64)


def one_per_row(label: Array, rows: int, nb_classes: int) -> Array:
    """Converts the classes of a class gradient to int64 ``(n,)``, one a row. Raises as `canonical`."""
    if label.shape != (rows,):
        raise InvalidLabel(f"label has shape {label.shape}; expected an int, or one class a row: ({rows},)")
    if label.dtype.kind not in "iu":
        raise InvalidDtype(f"label has dtype {label.dtype}; expected integers")
    return _indices(label, nb_classes)


def one_hot(indices: Array, nb_classes: int, dtype: np.dtype[np.floating]) -> Array:
    """Rows ``(n, nb_classes)`` with a 1 in the column of each index."""
    rows = np.zeros((len(indices), nb_classes), dtype)
    rows[np.arange(len(indices)), indices] = 1
    return rows


def top_class(outputs: Array, nb_classes: int, threshold: float) -> Array:
    """One-hot rows ``(n, nb_classes)`` of the top class; labels-only callers get nothing else.

    Args:
        outputs: ``(n, nb_classes)``, or ``(n, 1)`` for a binary model with one output.
        nb_classes: Number of classes.
        threshold: Value above which a single output means class 1.
    """
    single = outputs.shape[1] == 1
    indices = (outputs[:, 0] > threshold).astype(np.int64) if single else outputs.argmax(axis=1)
    return one_hot(indices, nb_classes, np.dtype(np.float32))


def _from_rows(y: Array) -> Array:
    indices: Array = y.argmax(axis=1)
    if np.count_nonzero(y) == len(y) and (y[np.arange(len(y)), indices] == 1).all():
        return indices.astype(np.int64)
    return y if y.dtype.kind == "f" else y.astype(np.float64)


def _indices(y: Array, nb_classes: int) -> Array:
    if y.dtype.kind == "f" and (np.floor(y) != y).any():
        raise InvalidLabel(f"label {y[np.floor(y) != y][0]} is not a whole number; for soft labels send rows (n, {nb_classes})")
    # Before the cast, in which numbers beyond int64 would wrap around.
    outside = (y < 0) | (y >= nb_classes)
    if outside.any():
        raise InvalidLabel(f"label {y[outside][0]} is out of range; expected 0 to {nb_classes - 1}")
    indices: Array = y.astype(np.int64)
    return indices
