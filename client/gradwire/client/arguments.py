"""Arguments of a call, checked against the card before anything is sent, and cast to what the model takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire.client.card import ModelCard
from gradwire.client.errors import DtypeError, InvalidCall, LabelError, LayerError, ShapeError, TooLarge, Unsupported
from gradwire.v1 import estimator_pb2 as pb
from gradwire.wire.tensors import Array

_NUMBERS = "biuf"

_REDUCTIONS = {"none": pb.REDUCTION_UNSPECIFIED, "mean": pb.REDUCTION_MEAN, "sum": pb.REDUCTION_SUM}


def rows(x: Any, card: ModelCard) -> Array:
    """Rows ``(n, *input_shape)``.

    What the model's dtype holds exactly travels as it is (uint8 images are a quarter of float32's bytes); anything else
    is cast here. numpy 2 makes float64 of much that attacks compute from float32 rows: without the cast it would
    travel at twice the size only to be rounded there.

    Raises:
        ShapeError, DtypeError, TooLarge
    """
    array = _numbers(x, "x")
    expected = card.input_shape
    if len(array.shape) != len(expected) + 1 or any(e not in (-1, s) for s, e in zip(array.shape[1:], expected, strict=True)):
        sizes = ", ".join("any" if size == -1 else str(size) for size in expected)
        raise ShapeError(f"x has shape {array.shape}; {card.name!r} takes (n, {sizes})")
    if len(array) == 0:
        raise ShapeError(f"x has no rows (shape {array.shape}); expected at least one")
    if card.input_dtype.kind in "iu" and array.dtype.kind == "f":
        raise DtypeError(f"x has dtype {array.dtype}; {card.name!r} takes {card.input_dtype}")
    exact = array.dtype in _SENT and np.can_cast(array.dtype, card.input_dtype, "safe")
    if not exact or array.dtype.itemsize > card.input_dtype.itemsize:
        array = array.astype(card.input_dtype)
    if card.limits.max_tensor_bytes and array.nbytes > card.limits.max_tensor_bytes:
        limit = card.limits.max_tensor_bytes
        raise TooLarge(f"x has {array.nbytes} bytes; the server's limit max_tensor_bytes is {limit}; send parts")
    return array


_SENT = frozenset(map(np.dtype, ("bool", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8")))


def labels(y: Any, n: int, card: ModelCard) -> Array:
    """Labels ``(n,)`` or ``(n, 1)`` indices or ``(n, C)`` rows; of regressions, targets. Raises LabelError, DtypeError."""
    if y is None:
        raise LabelError("y is None; expected labels, one a row (remote models do not label their own inputs)")
    array = _numbers(y, "y")
    if array.shape[:1] != (n,):
        raise LabelError(f"y has shape {array.shape} for {n} rows; expected one label a row")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise LabelError("y holds NaN or infinity; expected class indices, or rows of class weights")
    array = _sendable(array)
    if card.task == "regression" or (array.ndim == 2 and array.shape[1] == card.nb_classes and card.nb_classes > 1):
        return array
    if array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1):
        raise LabelError(f"y has shape {array.shape}; expected ({n},) indices or ({n}, {card.nb_classes}) rows")
    in_range(array.reshape(n), card)
    return array


def label(value: Any, n: int, card: ModelCard) -> int | Array | None:
    """The class, or classes one a row, of a class gradient. Raises LabelError, DtypeError."""
    if value is None:
        return None
    if isinstance(value, (int, np.integer)):
        in_range(np.asarray([value]), card)
        return int(value)
    array = _numbers(value, "label")
    if array.shape != (n,):
        raise LabelError(f"label has shape {array.shape} for {n} rows; expected None, an int, or one class a row")
    if array.dtype.kind not in "iu":
        raise LabelError(f"label has dtype {array.dtype}; expected integers")
    in_range(array, card)
    return array.astype(np.int64)


def in_range(indices: Array, card: ModelCard) -> None:
    """Raises LabelError if an index is not whole or not a class."""
    if indices.dtype.kind == "f" and (indices != np.floor(indices)).any():
        raise LabelError(
            f"label {indices[indices != np.floor(indices)][0]} is not whole; expected indices, or rows of class weights"
        )
    outside = (indices < 0) | (indices >= card.nb_classes)
    if outside.any():
        raise LabelError(f"label {indices[outside][0]} is out of range; {card.name!r} has classes 0 to {card.nb_classes - 1}")


def cotangent(value: Any, n: int) -> Array:
    """A cotangent ``(n, ...)``. Raises ShapeError, DtypeError."""
    array = _sendable(_numbers(value, "cotangent"))
    if array.shape[:1] != (n,):
        raise ShapeError(f"cotangent has shape {array.shape} for {n} rows; expected one entry a row, in the output's shape")
    return array


def reduction(value: str) -> pb.Reduction:
    """How a loss is reduced: "none", "mean" or "sum". Raises InvalidCall."""
    try:
        return _REDUCTIONS[value]
    except (KeyError, TypeError):
        raise InvalidCall(f"reduction is {value!r}; expected one of: {', '.join(_REDUCTIONS)}") from None


def layer(value: str | int, card: ModelCard) -> pb.Layer:
    """A layer's name or index. Raises LayerError."""
    if isinstance(value, str):
        return pb.Layer(name=value)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return pb.Layer(index=int(value))
    raise LayerError(f"layer is {value!r}; expected a name or an index, for example one of: {', '.join(card.layer_names[:20])}")


def clip_values(value: Any) -> tuple[Array, Array] | None:
    """Least and greatest input values, float32. Raises InvalidCall."""
    if value is None:
        return None
    if len(value) != 2:
        raise InvalidCall(f"clip_values has {len(value)} entries; expected (min, max)")
    low, high = (np.asarray(bound, np.float32) for bound in value)
    if not (low < high).all():
        raise InvalidCall("clip_values: min must be less than max everywhere")
    return low, high


def preprocessing(value: Any) -> tuple[Array, Array] | None:
    """A standardisation ``(mean, std)``, float64. Raises InvalidCall."""
    if value is None:
        return None
    try:
        mean, std = (np.asarray(part, np.float64) for part in value)
    except (TypeError, ValueError):
        raise InvalidCall(f"preprocessing is {value!r:.100}; expected (mean, std), numbers or arrays") from None
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std != 0).all()):
        raise InvalidCall("preprocessing: mean and std must be finite, and std nowhere 0")
    return mean, std


def refuse(unknown: dict[str, Any], method: str) -> None:
    """Refuses options that a remote fit does not have, by name. Raises Unsupported."""
    if unknown:
        raise Unsupported(
            f"{method} does not take {', '.join(sorted(unknown))} remotely; the server's model is set up by its owner"
        )


def _numbers(value: Any, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in _NUMBERS and array.dtype.name != "bfloat16":
        raise DtypeError(f"{name} has dtype {array.dtype}; expected numbers (a ragged list becomes an object array)")
    return array


def _sendable(array: Array) -> Array:
    """Casts what numpy has and the contract does not: unsigned integers over 8 bits, long doubles."""
    if array.dtype in _SENT or array.dtype.name == "bfloat16":
        return array
    wide: Array = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    return wide
