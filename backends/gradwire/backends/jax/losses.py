"""optax losses taken row by row, and the targets that each of them expects.

Invariant: the rows' losses, summed and divided by the number of rows if the loss is a mean, equal the mean (or the sum) of the
values that the loss itself returns for all rows together.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradwire.backends import labels, loss_targets
from gradwire.backends.backend import Array
from gradwire.backends.config import Object
from gradwire.backends.errors import ModelConfigError, ModelFailed

LabelForm: TypeAlias = Literal["rows", "indices"]

_CROSS_ENTROPY = "softmax_cross_entropy_with_integer_labels"
_WITH_INDICES = (_CROSS_ENTROPY, "multiclass_hinge_loss", "multiclass_perceptron_loss", "multiclass_sparsemax_loss")
_WITH_SIGNS = ("hinge_loss", "perceptron_loss")
"""Targets are -1 and 1."""
_WITH_LOGITS = (
    *_WITH_INDICES,
    *_WITH_SIGNS,
    "softmax_cross_entropy",
    "safe_softmax_cross_entropy",
    "poly_loss_cross_entropy",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "sparsemax_loss",
    "kl_divergence",
)


def build(spec: Object, key: str = "loss") -> Callable[..., Any]:
    """Makes the function that a configuration names, with its arguments bound; a class is called with them.

    Raises:
        ModelConfigError: The function is not callable, or does not take the arguments.
    """
    named = spec.resolve(key)
    if inspect.isclass(named):
        named = spec.build(key)
    elif spec.args and callable(named):
        try:
            inspect.signature(named).bind_partial(**spec.args)
        except TypeError as e:
            raise ModelConfigError(key, f"{spec.path!r} does not take the args {spec.args}: {e}") from e
        named = functools.partial(named, **spec.args)
    if not callable(named):
        raise ModelConfigError(key, f"{spec.path!r} is {type(named).__name__}; expected a function")
    found: Callable[..., Any] = named
    return found


class RowLoss:
    """A loss of rows of outputs.

    Losses with labels of the form 'indices' get class indices. Every other loss gets floating rows in the shape of the
    outputs: one-hot or soft, and for a model with one output the weight of class 1 (hinge and perceptron losses -1 to 1).
    In regression every loss gets the targets in the shape of the outputs. A loss that leaves more than one value a row is
    averaged over them if it is a mean, and summed if it is a sum.

    Args:
        loss: A loss of optax, or a function of outputs and targets that returns one value a row.
        regression: Labels are targets.
        dtype: Of outputs and targets.
        reduction: How the model's own loss treats rows.
        form: The form of labels that the loss expects; known of optax's own.

    Attributes:
        name: Of the loss, for the card.
        reduction: How the model's own loss treats rows.
        takes_logits: Whether the outputs are logits rather than probabilities.
        takes_outputs: Whether the loss can be computed from outputs alone.
    """

    takes_outputs = True

    def __init__(
        self,
        loss: Callable[..., Any],
        regression: bool,
        dtype: np.dtype[Any],
        reduction: Literal["mean", "sum"],
        form: LabelForm | None,
    ) -> None:
        self.name = _name(loss)
        self.reduction = reduction
        known = self.name if _inner(loss) is getattr(optax.losses, self.name, None) else ""
        self.takes_logits = known in _WITH_LOGITS
        self._loss = loss
        self._regression = regression
        self._indices = not regression and (form or ("indices" if known in _WITH_INDICES else "rows")) == "indices"
        self._soft: Callable[..., Any] | None = (
            functools.partial(optax.softmax_cross_entropy, **_args(loss)) if known == _CROSS_ENTROPY else None
        )
        self._signs = not regression and known in _WITH_SIGNS
        self._dtype = dtype

    def targets(self, y: Array, row: tuple[int, ...]) -> Array:
        """Converts labels to the targets that `rows` takes.

        Args:
            y: As `labels.canonical` returns them.
            row: The shape of a row of outputs.

        Raises:
            InvalidLabel: The loss is not defined for the labels, or they do not fit the outputs.
        """
        width = math.prod(row)
        if self._regression:
            return loss_targets.like_outputs(y, (width,)).astype(self._dtype, copy=False)
        if self._indices and y.ndim == 2 and self._soft is None:
            raise loss_targets.soft_refused(y, self.name)
        if width == 1 and not self._indices:
            return (y if y.ndim == 1 else y[:, 1]).astype(self._dtype)
        if y.ndim == 2:
            loss_targets.check_soft_width(y, width)
            return y.astype(self._dtype, copy=False)
        loss_targets.check_indices(y, width, self.name)
        return y.astype(np.int32)

    def rows(self, outputs: Any, targets: Any) -> Any:
        """The loss of each row, ``(n,)``, for outputs ``(n, C)`` and the result of `targets`; traced."""
        soft = self._soft if self._indices and targets.ndim == 2 else None
        loss = self._loss if soft is None else soft
        losses = loss(outputs, self._formed(outputs, targets))
        shape = getattr(losses, "shape", None)
        if shape is None or shape[:1] != outputs.shape[:1]:
            raise ModelFailed(
                f"the loss {self.name} returned {type(losses).__name__ if shape is None else shape} for {len(outputs)} rows; "
                "expected one value a row: a loss must not reduce, which loss_reduction configures"
            )
        several = losses.reshape(len(outputs), -1).astype(self._dtype)
        return several.mean(1) if self.reduction == "mean" else several.sum(1)

    def reduced(self, rows: Any, divisor: Any) -> Any:
        """The loss as the model's owner defined it, a scalar, from the losses of the rows and their `divisor`; traced."""
        return _reduced(rows, divisor, self.reduction)

    def divisor(self, y: Array) -> float:
        """The number that a mean over the rows divides by."""
        return float(len(y))

    def _formed(self, outputs: Any, targets: Any) -> Any:
        if self._regression:
            return targets.reshape(outputs.shape)
        if self._indices:
            return targets
        if outputs.shape[1] == 1:
            rows = targets[:, None]
        else:
            rows = jax.nn.one_hot(targets, outputs.shape[1], dtype=self._dtype) if targets.ndim == 1 else targets
        return 2 * rows - 1 if self._signs else rows


class WholeLoss:
    """ART's ``loss_func(params, x, y)``, a number for a batch: a row's loss is that of a batch of one.

    The targets are rows ``(n, nb_classes)``, one-hot or soft, as ART's examples have them; in regression as they are sent.

    Args:
        loss: The owner's function.
        regression: Labels are targets.
        dtype: Of the targets.
        reduction: How the owner's function treats the rows of a batch.
        nb_classes: How many classes there are.
    """

    takes_outputs = False
    takes_logits = True

    def __init__(
        self, loss: Callable[..., Any], regression: bool, dtype: np.dtype[Any], reduction: Literal["mean", "sum"], nb_classes: int
    ) -> None:
        self.name = _name(loss)
        self.reduction = reduction
        self._loss = loss
        self._regression = regression
        self._nb_classes = nb_classes
        self._dtype = dtype

    def targets(self, y: Array, row: tuple[int, ...]) -> Array:
        """Converts labels, as `labels.canonical` returns them, to the targets that the owner's functions take."""
        return whole_rows(y, self._nb_classes, self._regression, self._dtype)

    def rows(self, params: Any, x: Any, targets: Any) -> Any:
        """The loss of each row, ``(n,)``, for the owner's parameters, rows and the result of `targets`; traced."""

        def of_one(row: Any, target: Any) -> Any:
            loss = jnp.asarray(self._loss(params, row[None], target[None]))
            if loss.size != 1:
                raise ModelFailed(f"loss_func {self.name} returned shape {loss.shape}; expected a number for the batch")
            return loss.reshape(()).astype(self._dtype)

        return jax.vmap(of_one)(x, targets)

    def reduced(self, rows: Any, divisor: Any) -> Any:
        """The loss as the model's owner defined it, a scalar, from the losses of the rows and their `divisor`; traced."""
        return _reduced(rows, divisor, self.reduction)

    def divisor(self, y: Array) -> float:
        """The number that a mean over the rows divides by."""
        return float(len(y))


def whole_rows(y: Array, nb_classes: int, regression: bool, dtype: np.dtype[Any]) -> Array:
    """Converts labels, as `labels.canonical` returns them, to rows ``(n, nb_classes)``; leaves regression targets as they are."""
    return labels.one_hot(y, nb_classes, dtype) if y.ndim == 1 and not regression else y.astype(dtype, copy=False)


def _reduced(rows: Any, divisor: Any, reduction: Literal["mean", "sum"]) -> Any:
    total = rows.sum()
    return total / divisor if reduction == "mean" else total


def _inner(loss: Callable[..., Any]) -> Any:
    return loss.func if isinstance(loss, functools.partial) else loss


def _args(loss: Callable[..., Any]) -> dict[str, Any]:
    return loss.keywords if isinstance(loss, functools.partial) else {}


def _name(loss: Callable[..., Any]) -> str:
    inner = _inner(loss)
    return str(getattr(inner, "__name__", type(inner).__name__))
