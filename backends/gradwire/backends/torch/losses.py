"""Torch losses taken row by row, and the targets that each of them expects.

What holds: the rows' losses, summed and divided by `RowLoss.divisor` where the loss is a mean, are what the loss itself
returns for all of them at once, class weights and ``ignore_index`` included.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from gradwire.backends import labels
from gradwire.backends.backend import Array
from gradwire.backends.config import Object
from gradwire.backends.errors import InvalidLabel, ModelConfigError, ModelFailed
from gradwire.backends.torch.arrays import TORCH_DTYPES, tensor

_WITH_INDICES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
_WITH_LOGITS = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, nn.BCEWithLogitsLoss)


def build(spec: Object) -> Callable[..., Any]:
    """The loss that a configuration names: an object as it is, a class or function called with its arguments.

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
        dtype: What outputs are cast to before the loss, and the dtype of its weights.
        device: Where the outputs are.
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

    def rows(self, outputs: torch.Tensor, y: Array) -> torch.Tensor:
        """The loss of each row, ``(n,)``, for outputs ``(n, C)`` and labels as `labels.canonical` returns them."""
        outputs = outputs.to(TORCH_DTYPES[self._dtype])
        soft = not self._regression and y.ndim == 2
        if soft and isinstance(self._loss, _WITH_INDICES):
            self._check_soft(outputs, y)
        if soft and isinstance(self._loss, nn.NLLLoss):
            # Not defined in torch; as CrossEntropyLoss of the logits would have it.
            weighted = tensor(y, self._dtype, self._device) * outputs
            return -(weighted if self._loss.weight is None else weighted * self._loss.weight).sum(1)
        losses = self._loss(outputs, self._targets(outputs, y))
        if not isinstance(losses, torch.Tensor) or losses.shape[:1] != (len(y),):
            given = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
            raise ModelFailed(
                f"the loss {self.name} returned {given} for {len(y)} rows; expected one value a row: a loss of your own "
                "must not reduce, or heed an attribute `reduction`"
            )
        if losses.ndim == 1:
            return losses
        losses = losses.flatten(1)
        return losses.mean(1) if self._mean_over_outputs else losses.sum(1)

    def reduced(self, outputs: torch.Tensor, y: Array) -> torch.Tensor:
        """The loss as the model's owner defined it, a scalar."""
        total = self.rows(outputs, y).sum()
        return total / self.divisor(y) if self.reduction == "mean" else total

    def divisor(self, y: Array) -> float:
        """What a mean over the rows divides by.

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

    def _targets(self, outputs: torch.Tensor, y: Array) -> torch.Tensor:
        if self._regression:
            return self._regression_targets(outputs, y)
        width = outputs.shape[1]
        if isinstance(self._loss, _WITH_INDICES) and y.ndim == 1:
            # On a GPU an index beyond the outputs kills the process's CUDA context.
            if y.max() >= width:
                raise InvalidLabel(f"label {y.max()} for {width} outputs; {self.name} expects one output a class")
            return tensor(y, np.dtype(np.int64), self._device)
        if width == 1:
            positive = y if y.ndim == 1 else y[:, 1]
            return tensor(positive[:, None], self._dtype, self._device)
        if (y.shape[1] if y.ndim == 2 else y.max() + 1) > width:
            raise InvalidLabel(f"labels are of more classes than the model's {width} outputs")
        return tensor(y if y.ndim == 2 else labels.one_hot(y, width, self._dtype), self._dtype, self._device)

    def _regression_targets(self, outputs: torch.Tensor, y: Array) -> torch.Tensor:
        # Broadcasting (n,) against (n, 1) would make n x n losses of n.
        if y.size != outputs.numel():
            raise InvalidLabel(f"targets have shape {y.shape}; expected {tuple(outputs.shape)}, as the outputs")
        return tensor(y.reshape(outputs.shape), self._dtype, self._device)

    def _check_soft(self, outputs: torch.Tensor, y: Array) -> None:
        if isinstance(self._loss, nn.MultiMarginLoss):
            raise InvalidLabel(f"labels are soft, {y.shape}; MultiMarginLoss takes class indices or one-hot rows only")
        if self._loss.ignore_index >= 0:
            raise InvalidLabel(
                f"labels are soft, {y.shape}; with ignore_index, {self.name} takes class indices or one-hot rows only"
            )
        if y.shape[1] != outputs.shape[1]:
            raise InvalidLabel(f"labels are rows of {y.shape[1]} classes; the model has {outputs.shape[1]} outputs")
