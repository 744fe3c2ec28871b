"""Operations that a configuration rules out, and what a model's outputs are: rules that all neural backends share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from gradwire.backends.backend import OutputKind
from gradwire.backends.config import ModelConfig
from gradwire.backends.errors import Unsupported

OF_LOSS = ("loss", "loss_from_predictions", "loss_divisor", "loss_gradient")
"""Operations that need a loss."""
OF_GRADIENTS = ("loss_gradient", "class_gradient", "vjp")
"""Operations that need gradients with respect to the inputs, which integers do not have."""


class TakesLogits(Protocol):
    """A loss that is of logits or of probabilities."""

    takes_logits: bool


def withdraw(model: object, operations: Iterable[str]) -> None:
    """Sets operations to None on a model, which then does not have them; see `capabilities`."""
    for operation in operations:
        setattr(model, operation, None)


def output_kind(config: ModelConfig, squashed: bool, loss: TakesLogits | None) -> OutputKind:
    """The kind of a model's outputs.

    Args:
        config: Its ``output`` is taken if it is set.
        squashed: Whether the model is seen to end in a softmax or sigmoid.
        loss: The model's loss, which tells logits from probabilities otherwise.
    """
    if config.output is not None:
        return config.output
    if config.task == "regression":
        return "values"
    return "probabilities" if squashed or (loss is not None and not loss.takes_logits) else "logits"


def check_independent(is_same: bool, what: str) -> None:
    """Raises Unsupported if an untrained clone would share its parts with the model that it was made from."""
    if is_same:
        raise Unsupported(f"the model's factory returns the same {what} again; a clone needs a factory that makes new ones")
