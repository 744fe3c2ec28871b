"""Gluon losses taken row by row, and the targets that each of them expects.

What holds: Gluon's losses are one value a row, and ``Trainer.step`` divides by the rows. So the loss of several rows is
their mean, and the rows are what the loss itself returns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from gradwire.backends import labels
from gradwire.backends.backend import Array
from gradwire.backends.config import Object
from gradwire.backends.errors import InvalidLabel, ModelConfigError, ModelFailed
from gradwire.backends.mxnet.arrays import tensor
from gradwire.backends.mxnet.device import mx

_of = mx.gluon.loss
# Of two inputs, of sequences, or of all rows at once.
_NOT_OF_ROWS = (_of.CTCLoss, _of.TripletLoss, _of.CosineEmbeddingLoss, _of.SDMLLoss, _of.PoissonNLLLoss)
_WITH_LOGITS = (_of.SoftmaxCrossEntropyLoss, _of.HingeLoss, _of.SquaredHingeLoss, _of.LogisticLoss, _of.KLDivLoss)


def build(spec: Object) -> Callable[..., Any]:
    """The loss that a configuration names: an object as it is, a class or function called with its arguments."""
    named = spec.resolve("loss")
    loss = named if isinstance(named, mx.gluon.Block) else spec.build("loss")
    if not callable(loss):
        raise ModelConfigError("loss", f"{spec.path!r} returned {type(loss).__name__}; expected a callable of outputs and labels")
    if isinstance(loss, _NOT_OF_ROWS):
        raise ModelConfigError("loss", f"{spec.path!r} is not one value for each row of outputs and its label")
    if getattr(loss, "_batch_axis", 0) != 0:
        raise ModelConfigError("loss", f"batch_axis of {spec.path!r} is {loss._batch_axis}; expected 0: rows come first")
    made: Callable[..., Any] = loss
    return made


class RowLoss:
    """A loss of rows of outputs.

    ``SoftmaxCrossEntropyLoss`` gets class indices, or rows if they are soft or it has ``sparse_label=False``. Every other
    loss gets floating rows in the shape of the outputs: one-hot or soft, and for a model with one output the weight of
    class 1; a loss that wants -1 and 1 gets them. In regression every loss gets the targets in the shape of the outputs.

    Args:
        loss: A Gluon loss, or a callable of outputs and labels that returns one value a row; copied.
        regression: Labels are targets.
        dtype: Of the outputs.
        device: Where the outputs are.
    """

    def __init__(self, loss: Callable[..., Any], regression: bool, dtype: np.dtype[Any], device: Any) -> None:
        self.name: str = getattr(loss, "__name__", type(loss).__name__)
        self.takes_logits = isinstance(loss, _WITH_LOGITS) or not getattr(loss, "_from_sigmoid", True)
        self._loss = _own(loss)
        self._of_indices = isinstance(loss, _of.SoftmaxCrossEntropyLoss) and loss._sparse_label
        self._of_rows = _own(loss)
        if self._of_indices:
            self._of_rows._sparse_label = False
        self._signed = isinstance(loss, (_of.HingeLoss, _of.SquaredHingeLoss)) or getattr(loss, "_label_format", "") == "signed"
        self._regression = regression
        self._dtype = dtype
        self._device = device

    def rows(self, outputs: Any, y: Array) -> Any:
        """The loss of each row, ``(n,)``, for outputs ``(n, C)`` and labels as `labels.canonical` returns them."""
        if self._of_indices and y.ndim == 1 and not self._regression:
            # MXNet takes the last class for whatever is beyond it.
            if y.max() >= outputs.shape[1]:
                raise InvalidLabel(f"label {y.max()} for {outputs.shape[1]} outputs; {self.name} expects one output a class")
            losses = self._loss(outputs, tensor(y, self._dtype, self._device))
        else:
            losses = self._of_rows(outputs, tensor(self._targets(outputs.shape, y), self._dtype, self._device))
        if not isinstance(losses, mx.nd.NDArray) or losses.shape[:1] != (len(y),):
            given = losses.shape if isinstance(losses, mx.nd.NDArray) else type(losses).__name__
            raise ModelFailed(f"the loss {self.name} returned {given} for {len(y)} rows; expected one value a row")
        return losses if losses.ndim == 1 else losses.reshape((len(y), -1)).mean(axis=1)

    def divisor(self, y: Array) -> float:
        """What a mean over the rows divides by."""
        return float(len(y))

    def _targets(self, shape: tuple[int, ...], y: Array) -> Array:
        if self._regression:
            # Gluon reshapes whatever has as many elements; others it would refuse one call later.
            if y.size != np.prod(shape):
                raise InvalidLabel(f"targets have shape {y.shape}; expected {shape}, as the outputs")
            return y.reshape(shape)
        width = shape[1]
        if width == 1:
            rows = (y if y.ndim == 1 else y[:, 1])[:, None]
        elif (y.shape[1] if y.ndim == 2 else y.max() + 1) > width:
            raise InvalidLabel(f"labels are of more classes than the model's {width} outputs")
        else:
            rows = y if y.ndim == 2 else labels.one_hot(y, width, self._dtype)
        return 2.0 * rows - 1.0 if self._signed else rows


def _own(loss: Callable[..., Any]) -> Any:
    """A copy, because others may hold the loss. Gluon's own are compiled: one operator for five."""
    made: Any = copy.copy(loss)
    if type(loss).__module__ == _of.__name__:
        made.hybridize()
    return made
