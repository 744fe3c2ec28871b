"""Keras losses taken row by row, and the targets that each of them expects.

Invariant: the rows' losses, summed and divided by `RowLoss.divisor` where the loss is a mean, equal the loss of all rows
together, and their gradient is that of their value for every soft label.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np

from gradwire.backends import loss_targets
from gradwire.backends.backend import Array
from gradwire.backends.config import Object
from gradwire.backends.errors import InvalidLabel, ModelConfigError, ModelFailed
from gradwire.backends.tensorflow.device import keras, tf

_SPARSE = ("SparseCategoricalCrossentropy", "sparse_categorical_crossentropy")
_CATEGORICAL = ("CategoricalCrossentropy", "categorical_crossentropy")


def build(spec: Object) -> Callable[..., Any]:
    """Makes the loss that a configuration names, a callable of targets and outputs; see `owners_function`."""
    loss = owners_function(spec, "loss", "targets and outputs")
    if _function(loss).__module__.startswith("keras."):
        keras_on_tensorflow("loss")
    return loss


def owners_function(spec: Object, key: str, arguments: str) -> Callable[..., Any]:
    """Makes the callable of several arguments that a configuration names.

    An object is taken as it is, and a class is called with its arguments. A function of two arguments or more is taken with the
    configured ones bound; a function of fewer is called, and returns the callable.
    """
    named = spec.resolve(key)
    found = named
    if isinstance(named, type) or (callable(named) and _makes_another(named)):
        found = spec.build(key)
    elif callable(named) and spec.args:
        found = partial(named, **spec.args)
    if not callable(found):
        raise ModelConfigError(key, f"{spec.path!r} gives {type(found).__name__}; expected a callable of {arguments}")
    function: Callable[..., Any] = found
    return function


def _makes_another(named: Callable[..., Any]) -> bool:
    if not inspect.isroutine(named):
        return False
    positional = [p for p in inspect.signature(named).parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    return sum(p.default is p.empty for p in positional) < 2


def keras_on_tensorflow(key: str) -> None:
    """Raises ModelConfigError, naming a configuration key, if Keras computes with another framework."""
    if keras.backend.backend() != "tensorflow":
        raise ModelConfigError(
            key,
            f"Keras runs on {keras.backend.backend()} in this process; expected TensorFlow: set KERAS_BACKEND=tensorflow in the "
            "server's environment",
        )


class RowLoss:
    """A loss of rows of outputs.

    A loss of reduction 'none' counts as one that sums: that is the gradient it has when each row is taken for itself.
    ``SparseCategoricalCrossentropy`` gets class indices; of soft rows it is ``CategoricalCrossentropy``. Every other loss
    gets floating rows in the shape of the outputs, as in ART: one-hot or soft, and for a model with one output the weight
    of class 1. In regression every loss gets the targets in the shape of the outputs.

    Args:
        loss: A Keras loss, or a callable of targets and outputs that returns one value a row.
        regression: Labels are targets.
        dtype: Of the outputs in the loss, and of the targets.

    Attributes:
        name: Of the loss, for the card.
        reduction: How the model's own loss treats rows.
        takes_logits: Whether the outputs are logits rather than probabilities.
    """

    def __init__(self, loss: Callable[..., Any], regression: bool, dtype: np.dtype[Any]) -> None:
        reduction = getattr(loss, "reduction", "mean")
        self.name: str = getattr(_function(loss), "__name__", "") or type(loss).__name__
        self.reduction: Literal["mean", "sum"] = "sum" if reduction in ("sum", "none", None) else "mean"
        self.takes_logits = bool(_option(loss, "from_logits"))
        # Not the object itself: it casts to Keras's floatx, float32 for float64 models too, and reduces.
        self._row_values: Callable[..., Any] = getattr(loss, "call", loss)
        self._sparse = self.name in _SPARSE
        self._entropy = self._sparse or self.name in _CATEGORICAL
        self._smoothing = float(_option(loss, "label_smoothing") or 0.0)
        self._ignored = _option(loss, "ignore_class")
        self._mean_over_outputs = reduction != "sum"
        self._regression = regression
        self._dtype = dtype

    def targets(self, y: Array, row: tuple[int | None, ...]) -> Array:
        """Converts labels to the targets that the loss takes, int64 or floating.

        Args:
            y: As `labels.canonical` returns them.
            row: The shape of a row of outputs.

        Raises:
            InvalidLabel: The loss is not defined for the labels, or they do not fit the outputs.
        """
        if not self._sparse or self._regression:
            return rows_of(y, row, self._regression, self._dtype)
        width = _width(row)
        if y.ndim == 1:
            loss_targets.check_indices(y, width, self.name)
            return np.ascontiguousarray(y, np.int64)
        if self._ignored is not None:
            raise loss_targets.soft_refused(y, self.name, "ignore_class")
        loss_targets.check_soft_width(y, width)
        return np.ascontiguousarray(y, self._dtype)

    def soft(self, y: Array) -> bool:
        """True if `rows` has to compute the loss of the labels by its formula for soft ones."""
        return self._entropy and not self._regression and y.ndim == 2

    def rows(self, outputs: Any, targets: Any, soft: bool) -> Any:
        """The loss of each row, a tensor ``(n,)``, for outputs ``(n, ...)`` and the results of `targets` and `soft`."""
        # The same tensor where the dtype is right: Keras knows the logits of its own softmax by the tensor.
        outputs = tf.cast(outputs, self._dtype)
        losses = self._soft_entropy(targets, outputs) if soft else tf.convert_to_tensor(self._row_values(targets, outputs))
        if losses.shape.rank == 0 or (losses.shape[0] or 1) != (outputs.shape[0] or 1):
            raise ModelFailed(
                f"the loss {self.name} returned {tuple(losses.shape)} for outputs {tuple(outputs.shape)}; expected one value a "
                "row: a loss of your own must not reduce"
            )
        losses = tf.cast(losses, self._dtype)
        if losses.shape.rank == 1:
            return losses
        axes = list(range(1, losses.shape.rank))
        return tf.reduce_mean(losses, axes) if self._mean_over_outputs else tf.reduce_sum(losses, axes)

    def reduced(self, rows: Any, divisor: Any) -> Any:
        """The loss as the model's owner defined it, a scalar, from the losses of the rows and their `divisor`."""
        total = tf.reduce_sum(rows)
        return total / divisor if self.reduction == "mean" else total

    def divisor(self, y: Array) -> float:
        """The number that a mean over the rows divides by."""
        if self._regression or y.ndim == 2 or self._ignored is None:
            return float(len(y))
        return float((y != self._ignored).sum())

    def _soft_entropy(self, targets: Any, outputs: Any) -> Any:
        """Cross entropy of soft rows of any sum; the gradient of TensorFlow's own needs a sum of 1."""
        if self._smoothing:
            targets = targets * (1 - self._smoothing) + self._smoothing / outputs.shape[1]
        logits = outputs if self.takes_logits else _logits_of(outputs)
        if logits is None:
            return keras.losses.categorical_crossentropy(targets, outputs)
        return -tf.reduce_sum(targets * tf.nn.log_softmax(logits), -1)


def rows_of(y: Array, row: tuple[int | None, ...], regression: bool, dtype: np.dtype[Any]) -> Array:
    """Labels as floating rows in the shape of the outputs ``(n, *row)``."""
    if regression:
        sizes = [size for size in row if size is not None]
        # A free size is checked by the loss itself.
        return np.ascontiguousarray(loss_targets.like_outputs(y, tuple(sizes)) if len(sizes) == len(row) else y, dtype)
    return np.ascontiguousarray(loss_targets.floating_rows(y, _width(row), dtype), dtype)


def _width(row: tuple[int | None, ...]) -> int:
    if len(row) != 1 or row[0] is None:
        raise InvalidLabel(f"the model's outputs have shape {('n', *row)}; class labels are for outputs (n, C)")
    return row[0]


def _logits_of(outputs: Any) -> Any:
    """The logits that outputs are the softmax of; None if they are not known."""
    known = getattr(outputs, "_keras_logits", None)
    if known is None and tf.is_symbolic_tensor(outputs) and outputs.op.type == "Softmax":
        known = outputs.op.inputs[0]
    return known


def _function(loss: Any) -> Any:
    """The function or class that a loss is named by."""
    if isinstance(loss, partial):
        loss = loss.func
    return loss if inspect.isroutine(loss) else type(loss)


def _option(loss: Any, name: str) -> Any:
    return loss.keywords.get(name) if isinstance(loss, partial) else getattr(loss, name, None)
