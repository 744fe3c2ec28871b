"""Torch losses taken row by row, and the targets that each of them expects.

Invariant: the rows' losses, summed and divided by `RowLoss.divisor` where the loss is a mean, equal the loss of all rows
together, class weights and ``ignore_index`` included.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from gradwire.backends import loss_targets
from gradwire.backends.backend import Array
from gradwire.backends.config import Object
from gradwire.backends.errors import ModelConfigError, ModelFailed
from gradwire.backends.torch.arrays import TORCH_DTYPES, tensor

_WITH_INDICES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
_WITH_LOGITS = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, nn.BCEWithLogitsLoss)


def build(spec: Object) -> Callable[..., Any]:
    """Makes the loss that a configuration names: takes an object as it is, calls a class or function.

    Lists of numbers among the arguments (``weight``, ``pos_weight``) become tensors.
    """
    named = spec.resolve("loss")
    if isinstance(named, nn.Module):
        return named
    try:
        args = {k: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v for k, v in spec.args.items()}
    except (TypeError, ValueError) as e:
        raise ModelConfigError("loss", f"args of {spec.path!r}: {e}; a list must hold numbers") from e
    loss = spec.model_copy(update={"args": args}).build("loss")
    if not callable(loss):
        raise ModelConfigError("loss", f"{spec.path!r} returned {type(loss).__name__}; expected a callable of outputs and targets")
    made: Callable[..., Any] = loss
    return made


class RowLoss:
    """A loss of rows of outputs.

    A loss of reduction 'none' counts as one that sums: that is the gradient it has when each row is taken for itself.
    ``CrossEntropyLoss``, ``NLLLoss`` and ``MultiMarginLoss`` get class indices, or soft rows where they are defined for
    them. Every other loss gets floating rows in the shape of the outputs, as in ART: one-hot or soft, and for a model with
    one output the weight of class 1. In regression every loss gets the targets in the shape of the outputs.

    Args:
        loss: A torch loss, or a callable of outputs and targets that returns one value a row; copied.
        regression: Labels are targets.
        dtype: Of the outputs in the loss, and of the loss's weights.
        device: Where the outputs are.

    Attributes:
        name: Of the loss, for the card.
        reduction: How the model's own loss treats rows.
        takes_logits: Whether the outputs are logits rather than probabilities.
    """

    def __init__(self, loss: Callable[..., Any], regression: bool, dtype: np.dtype[Any], device: torch.device) -> None:
        reduction = getattr(loss, "reduction", "mean")
        self.name: str = getattr(loss, "__name__", type(loss).__name__)
        self.reduction: Literal["mean", "sum"] = "mean" if reduction in ("mean", "batchmean") else "sum"
        self.takes_logits = isinstance(loss, _WITH_LOGITS)
        # A copy, because others may hold the loss: `reduction` is state of the object.
        self._loss: Any = copy.deepcopy(loss)
        if isinstance(self._loss, nn.Module):
            self._loss = self._loss.to(device, TORCH_DTYPES[dtype]).eval().requires_grad_(False)
        if hasattr(self._loss, "reduction"):
            self._loss.reduction = "none"
        self._mean_over_outputs = reduction == "mean"
        self._regression = regression
        self._dtype = dtype
        self._device = device

    def targets(self, y: Array, row: tuple[int, ...]) -> torch.Tensor:
        """Converts labels to the targets that the loss takes.

        Args:
            y: As `labels.canonical` returns them.
            row: The shape of a row of outputs.

        Raises:
            InvalidLabel: The loss is not defined for the labels, or they do not fit the outputs.
        """
        if self._regression:
            return tensor(loss_targets.like_outputs(y, row), self._dtype, self._device)
        if isinstance(self._loss, _WITH_INDICES) and y.ndim == 1:
            # On a GPU an index beyond the outputs kills the process's CUDA context.
            loss_targets.check_indices(y, row[0], self.name)
            return tensor(y, np.dtype(np.int64), self._device)
        if isinstance(self._loss, _WITH_INDICES):
            self._check_soft(y, row[0])
        return tensor(loss_targets.floating_rows(y, row[0], self._dtype), self._dtype, self._device)

    def rows(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each row, ``(n,)``, for outputs ``(n, C)`` and the result of `targets`."""
        outputs = outputs.to(TORCH_DTYPES[self._dtype])
        if isinstance(self._loss, nn.NLLLoss) and not self._regression and targets.is_floating_point():
            # Soft rows, for which torch defines no loss; as CrossEntropyLoss of the logits would have it.
            weighted = targets * outputs
            return -(weighted if self._loss.weight is None else weighted * self._loss.weight).sum(1)
        losses = self._loss(outputs, targets)
        if not isinstance(losses, torch.Tensor) or losses.shape[:1] != (len(targets),):
            given = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
            raise ModelFailed(
                f"the loss {self.name} returned {given} for {len(targets)} rows; expected one value a row: a loss of your own "
                "must not reduce, or heed an attribute `reduction`"
            )
        if losses.ndim == 1:
            return losses
        losses = losses.flatten(1)
        return losses.mean(1) if self._mean_over_outputs else losses.sum(1)

    def reduced(self, rows: torch.Tensor, divisor: float) -> torch.Tensor:
        """The loss as the model's owner defined it, a scalar, from the losses of the rows and their `divisor`."""
        total = rows.sum()
        return total / divisor if self.reduction == "mean" else total

    def divisor(self, y: Array) -> float:
        """The number that a mean over the rows divides by.

        torch divides by the weights of the rows' classes only for index labels; with soft ones it divides by the rows.
        """
        if self._regression or y.ndim == 2 or not isinstance(self._loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
            return float(len(y))
        if self._loss.weight is None and self._loss.ignore_index < 0:
            return float(len(y))
        kept = y[y != self._loss.ignore_index]
        if self._loss.weight is None:
            return float(len(kept))
        weight: Array = self._loss.weight.cpu().double().numpy()
        return float(weight[kept].sum())

    def _check_soft(self, y: Array, width: int) -> None:
        if isinstance(self._loss, nn.MultiMarginLoss):
            raise loss_targets.soft_refused(y, self.name)
        if self._loss.ignore_index >= 0:
            raise loss_targets.soft_refused(y, self.name, "ignore_index")
        loss_targets.check_soft_width(y, width)
