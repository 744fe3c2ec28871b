"""Gluon losses taken row by row, and the targets that each of them expects.

Invariant: Gluon's losses are one value a row, and ``Trainer.step`` divides by the rows. So the loss of several rows is
their mean, and the loss itself returns the rows' losses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from gradwire.backends import loss_targets
from gradwire.backends.backend import Array
from gradwire.backends.config import Object
from gradwire.backends.errors import ModelConfigError, ModelFailed
from gradwire.backends.mxnet.arrays import tensor
from gradwire.backends.mxnet.device import mx

_of = mx.gluon.loss
# Losses of two inputs, of sequences, or of all rows together.
_NOT_OF_ROWS = (_of.CTCLoss, _of.TripletLoss, _of.CosineEmbeddingLoss, _of.SDMLLoss, _of.PoissonNLLLoss)
_WITH_LOGITS = (_of.SoftmaxCrossEntropyLoss, _of.HingeLoss, _of.SquaredHingeLoss, _of.LogisticLoss, _of.KLDivLoss)


def build(spec: Object) -> Callable[..., Any]:
    """Makes the loss that a configuration names: takes an object as it is, calls a class or function."""
    named = spec.resolve("loss")
    loss = named if isinstance(named, mx.gluon.Block) else spec.build("loss")
    if not callable(loss):
        raise ModelConfigError("loss", f"{spec.path!r} returned {type(loss).__name__}; expected a callable of outputs and labels")
    if isinstance(loss, _NOT_OF_ROWS):
        raise ModelConfigError("loss", f"{spec.path!r} does not return one value for each row of outputs and its label")
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

    Attributes:
        name: Of the loss, for the card.
        reduction: How the model's own loss treats rows.
        takes_logits: Whether the outputs are logits rather than probabilities.
    """

    reduction: Literal["mean", "sum"] = "mean"

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

    def targets(self, y: Array, row: tuple[int, ...]) -> Any:
        """Converts labels to the targets that the loss takes.

        Args:
            y: As `labels.canonical` returns them.
            row: The shape of a row of outputs.

        Raises:
            InvalidLabel: The labels do not fit the outputs.
        """
        if self._regression:
            # Gluon reshapes all targets with as many elements; others it would refuse one call later.
            targets = loss_targets.like_outputs(y, row)
        elif self._of_indices and y.ndim == 1:
            # MXNet takes the last class for an index beyond it.
            loss_targets.check_indices(y, row[0], self.name)
            targets = y
        else:
            targets = loss_targets.floating_rows(y, row[0], self._dtype)
            targets = 2.0 * targets - 1.0 if self._signed else targets
        return tensor(targets, self._dtype, self._device)

    def rows(self, outputs: Any, targets: Any) -> Any:
        """The loss of each row, ``(n,)``, for outputs ``(n, C)`` and the result of `targets`."""
        loss = self._loss if self._of_indices and targets.ndim == 1 else self._of_rows
        losses, n = loss(outputs, targets), targets.shape[0]
        if not isinstance(losses, mx.nd.NDArray) or losses.shape[:1] != (n,):
            given = losses.shape if isinstance(losses, mx.nd.NDArray) else type(losses).__name__
            raise ModelFailed(f"the loss {self.name} returned {given} for {n} rows; expected one value a row")
        return losses if losses.ndim == 1 else losses.reshape((n, -1)).mean(axis=1)

    def reduced(self, rows: Array, divisor: float) -> float:
        """The loss as the model's owner defined it, from the losses of the rows, whose number is the `divisor`."""
        return float(rows.mean())

    def divisor(self, y: Array) -> float:
        """The number that a mean over the rows divides by."""
        return float(len(y))


def _own(loss: Callable[..., Any]) -> Any:
    """Copies a loss, because others may hold it. Gluon's own are compiled: one operator for five."""
    made: Any = copy.copy(loss)
    if type(loss).__module__ == _of.__name__:
        made.hybridize()
    return made
