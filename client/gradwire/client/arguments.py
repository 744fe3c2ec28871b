"""Checks of a call's arguments against the model's card before anything is sent, and casts to the model's dtypes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradwire.client.card import ModelCard
from gradwire.client.errors import (
    DtypeError,
    InvalidCall,
    LabelError,
    LayerError,
    NotGranted,
    ShapeError,
    TooLarge,
    Unsupported,
)
from gradwire.v1 import estimator_pb2 as pb
from gradwire.wire.names import ANSWERS
from gradwire.wire.tensors import Array, elements, raw

_NUMBERS = "biuf"

_REDUCTIONS = {"none": pb.REDUCTION_NONE, "mean": pb.REDUCTION_MEAN, "sum": pb.REDUCTION_SUM}


def rows(x: Any, card: ModelCard) -> Array:
    """Checks rows ``(n, *input_shape)`` and casts them if needed.

    Values that the model's dtype holds exactly are sent as they are (uint8 images are a quarter of float32's bytes); others
    are cast here. In numpy 2, much that attacks compute from float32 rows becomes float64: without the cast it would
    travel at twice the size, and the server would round it anyway.

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
    return _within(array, "x", "max_tensor_bytes", card.limits.max_tensor_bytes)


_SENT = frozenset(map(np.dtype, ("bool", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8")))


def labelled_rows(x: Any, y: Any, card: ModelCard) -> tuple[Array, Array]:
    """Checks rows and their labels. As `rows` and `labels`."""
    array = rows(x, card)
    return array, labels(y, len(array), card)


def labels(y: Any, n: int, card: ModelCard) -> Array:
    """Checks labels: ``(n,)`` or ``(n, 1)`` indices, ``(n, C)`` rows, or targets of a regression.

    Raises:
        LabelError, DtypeError, TooLarge; ShapeError if ragged
    """
    if y is None:
        raise LabelError("y is None; expected one label per row (remote models do not label their own inputs)")
    array = _numbers(y, "y")
    if array.shape[:1] != (n,):
        raise LabelError(f"y has shape {array.shape} for {n} rows; expected one label per row")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise LabelError("y holds NaN or infinity; expected class indices, or rows of class weights")
    array = _held(_sendable(array), "y", card)
    if card.task == "regression" or (array.ndim == 2 and array.shape[1] == card.nb_classes and card.nb_classes > 1):
        return array
    if array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1):
        raise LabelError(f"y has shape {array.shape}; expected ({n},) indices or ({n}, {card.nb_classes}) rows")
    in_range(array.reshape(n), card)
    return array


def label(value: Any, n: int, card: ModelCard) -> int | Array | None:
    """Checks the ``label`` of a class gradient: None, one class, or one class per row.

    Raises:
        LabelError, DtypeError, TooLarge; ShapeError if ragged
    """
    if value is None:
        return None
    if isinstance(value, (int, np.integer)):
        in_range(np.asarray([value]), card)
        return int(value)
    array = _numbers(value, "label")
    if array.shape != (n,):
        raise LabelError(f"label has shape {array.shape} for {n} rows; expected None, an int, or one class per row")
    if array.dtype.kind not in "iu":
        raise LabelError(f"label has dtype {array.dtype}; expected integers")
    in_range(array, card)
    return _held(array.astype(np.int64), "label", card)


def in_range(indices: Array, card: ModelCard) -> None:
    """Checks class indices. Raises LabelError if one is not a whole number or out of range."""
    if indices.dtype.kind == "f" and (indices != np.floor(indices)).any():
        raise LabelError(
            f"label {indices[indices != np.floor(indices)][0]} is not a whole number; expected indices, or rows of class weights"
        )
    outside = (indices < 0) | (indices >= card.nb_classes)
    if outside.any():
        raise LabelError(f"label {indices[outside][0]} is out of range; {card.name!r} has classes 0 to {card.nb_classes - 1}")


def predictions(value: Any, card: ModelCard) -> Array:
    """Checks outputs ``(n, *output_shape)`` and casts them to the card's dtype. Raises ShapeError, DtypeError, TooLarge."""
    array = _numbers(value, "pred")
    if array.ndim == 0 or array.shape[1:] != card.output_shape:
        raise ShapeError(f"pred has shape {array.shape}; expected (n, {', '.join(map(str, card.output_shape))})")
    if len(array) == 0:
        raise ShapeError(f"pred has no rows (shape {array.shape}); expected at least one")
    return _within(array.astype(card.output_dtype, copy=False), "pred", "max_tensor_bytes", card.limits.max_tensor_bytes)


def cotangent(value: Any, n: int, card: ModelCard) -> Array:
    """Checks a cotangent ``(n, ...)``. Raises ShapeError, DtypeError, TooLarge."""
    array = _sendable(_numbers(value, "cotangent"))
    if array.shape[:1] != (n,):
        raise ShapeError(f"cotangent has shape {array.shape} for {n} rows; expected one entry per row, in the output's shape")
    return _held(array, "cotangent", card)


def reduction(value: str) -> pb.Reduction:
    """Returns the contract's value of a loss reduction: "none", "mean" or "sum". Raises InvalidCall."""
    try:
        return _REDUCTIONS[value]
    except (KeyError, TypeError):
        raise InvalidCall(f"reduction is {value!r}; expected one of: {', '.join(_REDUCTIONS)}") from None


def answer(name: str, card: ModelCard) -> pb.Answer:
    """Returns the contract's value of a kind of answer. Raises NotGranted or Unsupported if the card does not list it."""
    if name in card.answers:
        return ANSWERS[name]
    error = NotGranted if card.access == "labels" else Unsupported
    offered = ", ".join(sorted(card.answers)) or "outputs"
    raise error(f"{card.name!r} does not answer {name} to callers with access {card.access!r}; it answers: {offered}")


def layer(value: str | int, card: ModelCard) -> pb.Layer:
    """Checks a layer's name or index. Raises LayerError."""
    if isinstance(value, str):
        return pb.Layer(name=value)
    if _whole(value) and -(1 << 31) <= value < 1 << 31:
        return pb.Layer(index=int(value))
    raise LayerError(f"layer is {value!r}; expected a name or an index, for example one of: {', '.join(card.layer_names[:20])}")


def clip_values(value: Any) -> tuple[Array, Array] | None:
    """Checks clip values ``(min, max)`` and casts them to float32. Raises InvalidCall."""
    if value is None:
        return None
    low, high = _pair(value, "clip_values", "(min, max)", np.float32)
    if not (low < high).all():
        raise InvalidCall("clip_values: min must be less than max everywhere")
    return low, high


def preprocessing(value: Any) -> tuple[Array, Array] | None:
    """Checks a standardisation ``(mean, std)`` and casts it to float64. Raises InvalidCall."""
    if value is None:
        return None
    mean, std = _pair(value, "preprocessing", "(mean, std)", np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std != 0).all()):
        raise InvalidCall("preprocessing: mean and std must be finite, and std must not be 0 anywhere")
    return mean, std


def options(batch_size: Any, training_mode: bool, standardisation: tuple[Array, Array] | None, card: ModelCard) -> pb.RowOptions:
    """Makes the options of an operation on rows; ``standardisation`` replaces the server's. Raises InvalidCall."""
    batch_size = count("batch_size", batch_size, 0, hint="; 0 lets the server choose")
    result = pb.RowOptions(batch_size=batch_size, training_mode=training_mode)
    if standardisation is not None:
        dtype = card.input_dtype if card.input_dtype.kind == "f" else np.dtype(np.float32)
        for name, value in zip(("mean", "std"), standardisation, strict=True):
            array, sent = elements(np.asarray(value, dtype))
            tensor = getattr(result.standardisation, name)
            tensor.name, tensor.dtype, tensor.nbytes, tensor.data = name, sent, array.nbytes, bytes(raw(array))
            tensor.shape.extend(array.shape)
    return result


def count(name: str, value: Any, least: int, most: int = (1 << 31) - 1, hint: str = "") -> int:
    """Checks a whole number within the range of the contract's integers. Raises InvalidCall."""
    if not _whole(value) or not least <= value <= most:
        raise InvalidCall(f"{name} is {value!r:.100}; expected a whole number from {least} to {most}{hint}")
    return int(value)


def timeout_s(value: Any) -> float | None:
    """Checks the time limit of a call; None: no limit. Raises InvalidCall."""
    if value is None:
        return None
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise InvalidCall(f"timeout_s is {value!r:.100}; expected a number of seconds greater than 0, or None for no limit")
    return float(value)


def name(argument: str, value: Any) -> str:
    """Checks a name: of a model, a version or a principal. Raises InvalidCall."""
    if not isinstance(value, str):
        raise InvalidCall(f"{argument} is {value!r:.100}; expected a name")
    return value


def no_other_options(unknown: dict[str, Any], method: str) -> None:
    """Rejects options that a remote fit does not have. Raises Unsupported, which names them."""
    if unknown:
        raise Unsupported(
            f"{method} does not take {', '.join(sorted(unknown))} remotely; only the model's owner can set that, on the server"
        )


def _numbers(value: Any, name: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as e:
        raise ShapeError(f"cannot convert {name} to an array: {e}; expected rows of one shape") from None
    except (TypeError, RuntimeError) as e:
        raise DtypeError(f"cannot convert {name} to an array: {e}; expected numbers") from None
    if array.dtype.kind not in _NUMBERS and array.dtype.name != "bfloat16":
        raise DtypeError(f"{name} has dtype {array.dtype}; expected numbers")
    return array


def _pair(value: Any, name: str, expected: str, dtype: type[np.floating[Any]]) -> tuple[Array, Array]:
    try:
        first, second = (_numbers(part, name).astype(dtype) for part in value)
        np.broadcast_shapes(first.shape, second.shape)
    except (TypeError, ValueError):
        raise InvalidCall(f"{name} is {value!r:.100}; expected {expected}, both numbers or arrays that broadcast") from None
    return first, second


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _held(array: Array, name: str, card: ModelCard) -> Array:
    """Checks the size of an array that the server holds whole, while rows pass in blocks. Raises TooLarge."""
    return _within(array, name, "max_held_bytes", card.limits.max_held_bytes)


def _within(array: Array, name: str, limit: str, most: int) -> Array:
    if most and array.nbytes > most:
        raise TooLarge(f"{name} has {array.nbytes} bytes; the server's limit {limit} is {most}; send fewer rows at once")
    return array


def _sendable(array: Array) -> Array:
    """Casts dtypes that the contract lacks: unsigned integers over 8 bits, long doubles."""
    if array.dtype in _SENT or array.dtype.name == "bfloat16":
        return array
    wide: Array = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    return wide
