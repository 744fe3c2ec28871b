"""Preprocessing of rows into model inputs, its gradient, and postprocessing of predictions.

Defences first, each an object with ART's interface (``__call__``, ``estimate_gradient``, ``apply_fit``,
``apply_predict``), then standardisation ``(x - mean) / std``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.errors import InvalidShape, InvalidValue, ModelFailed


class PreprocessingDefence(Protocol):
    """ART's ``Preprocessor``."""

    @property
    def apply_fit(self) -> bool:
        """True if the defence applies to fits."""
        ...

    @property
    def apply_predict(self) -> bool:
        """True if the defence applies to predictions and gradients."""
        ...

    def __call__(self, x: Array, y: Any = None) -> tuple[Array, Any]:
        """Changed rows and labels."""
        ...

    def estimate_gradient(self, x: Array, grad: Array) -> Array:
        """Gradient with respect to ``x``, from the gradient with respect to the changed rows."""
        ...


class PostprocessingDefence(Protocol):
    """ART's ``Postprocessor``."""

    @property
    def apply_predict(self) -> bool:
        """True if the defence applies to predictions."""
        ...

    def __call__(self, preds: Array) -> Array:
        """Changed predictions."""
        ...


@dataclass(frozen=True)
class Standardisation:
    """Standardisation of model inputs, ``(x - mean) / std``.

    Attributes:
        mean: A scalar, or an array that broadcasts against a batch of rows.
        std: Likewise, without zeros.
    """

    mean: Array
    std: Array

    @classmethod
    def of(cls, mean: Any, std: Any, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> Standardisation:
        """Makes a standardisation from numbers or arrays, with vectors placed on the axis that they fit.

        ART's rule: a vector runs along the last axis of a row, or, if its size is another, along the first axis
        (the channels of channels-first images).

        Raises:
            InvalidShape: The vector fits neither.
            InvalidValue: A value is not finite, or a ``std`` is 0.
        """
        arrays = [_along_axis(name, np.asarray(value, dtype), row_shape) for name, value in (("mean", mean), ("std", std))]
        if not all(np.isfinite(array).all() for array in arrays):
            raise InvalidValue("mean and std must be finite")
        if (arrays[1] == 0).any():
            raise InvalidValue("std holds 0; inputs are divided by it, so that it must not be 0")
        return cls(*arrays)

    def __call__(self, x: Array) -> Array:
        """Standardised rows."""
        result: Array = x - self.mean
        result /= self.std
        return result

    def gradient(self, grad: Array) -> Array:
        """Gradient with respect to ``x``, from ``grad``, the gradient with respect to the model inputs."""
        return grad / self.std


class Preprocessing:
    """The chain of defences and standardisation in front of one model.

    Attributes:
        has_predict_defences: Whether a defence changes rows of every operation.
        has_fit_defences: Whether a defence may change labels and add rows in a fit.
    """

    def __init__(self, defences: Sequence[PreprocessingDefence], standardisation: Standardisation | None, dtype: np.dtype[Any]):
        self.defences = tuple(defences)
        self.standardisation = standardisation
        self._dtype = dtype
        self._for_predict = tuple(d for d in self.defences if d.apply_predict)
        self._for_fit = tuple(d for d in self.defences if d.apply_fit)
        self.has_predict_defences = bool(self._for_predict)
        self.has_fit_defences = bool(self._for_fit)

    def __call__(self, x: Array, standardisation: Standardisation | None = None) -> Array:
        """Model inputs of rows ``(n, *input_shape)``. ``standardisation`` replaces the chain's own for this call."""
        return self.with_labels(x, None, standardisation)[0]

    def with_labels(self, x: Array, y: Any, standardisation: Standardisation | None = None) -> tuple[Array, Any]:
        """Model inputs, and labels ``(n, C)``, which defences may change."""
        for defence in self._for_predict:
            changed, y = defence(x, y)
            x = _checked(defence, changed, x)
        return self._standardise(x, standardisation), y

    def for_fit(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Model inputs and labels ``(n, C)`` to train on; defences may change both, and the number of rows."""
        for defence in self._for_fit:
            x, y = defence(x, y)
        return self._standardise(x, None), y

    def gradient(self, x: Array, grad: Array, standardisation: Standardisation | None = None) -> Array:
        """Gradient with respect to rows ``x``, from the gradient with respect to their model inputs.

        Args:
            x: ``(n, *input_shape)``, the rows before `__call__`.
            grad: ``(n, *input_shape)``, or ``(n, k, *input_shape)`` for ``k`` gradients a row.
            standardisation: As for `__call__`.
        """
        last = standardisation or self.standardisation
        several = grad.ndim == x.ndim + 1
        if last is not None:
            if several:
                # Along an axis of its own for the k gradients, so that a mean of a row's shape still broadcasts.
                shape = np.broadcast_shapes(last.std.shape, (1,) * x.ndim)
                grad = grad / last.std.reshape(shape)[:, None]
            else:
                grad = last.gradient(grad)
        if self._for_predict:
            inputs = [x]
            for defence in self._for_predict[:-1]:
                inputs.append(_checked(defence, defence(inputs[-1])[0], inputs[-1]))
            for defence, x_in in zip(reversed(self._for_predict), reversed(inputs), strict=True):
                grad = _estimated(defence, x_in, grad, several)
        return grad.astype(self._dtype, copy=False)

    def _standardise(self, x: Array, standardisation: Standardisation | None) -> Array:
        last = standardisation or self.standardisation
        x = x if x.dtype == self._dtype else x.astype(self._dtype)
        return x if last is None else last(x)


def postprocess(defences: Sequence[PostprocessingDefence], predictions: Array) -> Array:
    """Applies postprocessing defences to predictions."""
    for defence in defences:
        if defence.apply_predict:
            predictions = np.asarray(defence(predictions.copy()))
    return predictions


def _along_axis(name: str, value: Array, row_shape: tuple[int, ...]) -> Array:
    if value.ndim == 0 or (value.ndim == 1 and value.shape[0] in (1, row_shape[-1])):
        return value
    if value.ndim == 1 and value.shape[0] == row_shape[0]:
        return value.reshape((-1,) + (1,) * (len(row_shape) - 1))
    # Numpy's own broadcasting would also let the value enlarge the row.
    sizes = zip(reversed(value.shape), reversed(row_shape), strict=False)
    if value.ndim <= len(row_shape) and all(own in (1, size) for own, size in sizes):
        return value
    raise InvalidShape(f"{name} has shape {value.shape}; expected a number, or a shape that broadcasts against a row {row_shape}")


def _checked(defence: object, x_out: Array, x_in: Array) -> Array:
    if len(x_out) != len(x_in):
        raise ModelFailed(
            f"{type(defence).__name__} made {len(x_out)} rows of {len(x_in)} while predicting; set apply_predict=False"
        )
    return x_out


def _estimated(defence: PreprocessingDefence, x: Array, grad: Array, several: bool) -> Array:
    """Gradient with respect to the rows before one defence.

    ART promises a defence gradients in the shape of its inputs only, so that several gradients are passed one at a time.
    """
    if not several:
        return np.asarray(defence.estimate_gradient(x, grad))
    return np.stack([np.asarray(defence.estimate_gradient(x, grad[:, k])) for k in range(grad.shape[1])], axis=1)
