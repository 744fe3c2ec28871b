"""Calls of a load: operations by the names that users type, on random rows that fit the model's card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from gradwire.client import arguments
from gradwire.client.card import ModelCard
from gradwire.client.check.random_rows import random_rows
from gradwire.client.errors import InvalidCall, NotGranted
from gradwire.client.estimator import RemoteEstimator
from gradwire.wire.tensors import Array

_POOL = 8
_POOL_NBYTES = 64 << 20
"""Most batches per process, which its clients share; fewer if they are large. None is made during a measurement."""


@dataclass(frozen=True)
class Inputs:
    """Shapes of the calls' arguments.

    Attributes:
        card: The model's card.
        shape: Sizes of a row's axes, without -1.
        output_shape: Sizes of a cotangent row's axes.
        layer: The layer for activations; None if the model has no layers.
    """

    card: ModelCard
    shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    layer: str | int | None


@dataclass(frozen=True)
class Batch:
    """Arguments of a call of any operation: ``x`` is ``(rows, *shape)``, the others have as many rows."""

    x: Array
    y: Array
    label: Array
    cotangent: Array
    layer: str | int | None


Call: TypeAlias = Callable[[RemoteEstimator, Batch], Array]


@dataclass(frozen=True)
class Operation:
    """An operation that can be measured.

    Attributes:
        granted_as: The operation's name on the card.
        call: Makes one call.
    """

    granted_as: str
    call: Call


def _activations(remote: RemoteEstimator, batch: Batch) -> Array:
    assert batch.layer is not None
    return remote.get_activations(batch.x, batch.layer)


OPERATIONS: dict[str, Operation] = {
    "predict": Operation("predict", lambda remote, batch: remote.predict(batch.x)),
    "loss": Operation("loss", lambda remote, batch: remote.compute_loss(batch.x, batch.y)),
    "loss_gradient": Operation("loss_gradient", lambda remote, batch: remote.loss_gradient(batch.x, batch.y)),
    "class_gradient": Operation("class_gradient", lambda remote, batch: remote.class_gradient(batch.x)),
    "class_gradient:label": Operation("class_gradient", lambda remote, batch: remote.class_gradient(batch.x, batch.label)),
    "get_activations": Operation("get_activations", _activations),
    "vjp": Operation("vjp", lambda remote, batch: remote.vjp(batch.x, batch.cotangent)),
}
"""In the contract's order. ``class_gradient`` computes all classes, ``class_gradient:label`` one class per row."""


def granted(card: ModelCard) -> list[str]:
    """Returns the operations of a model that this caller can measure."""
    return [name for name, operation in OPERATIONS.items() if operation.granted_as in card.operations and _possible(name, card)]


def checked(name: str, inputs: Inputs) -> str:
    """Checks the name of an operation. Raises InvalidCall if it is unknown, NotGranted if the caller lacks it."""
    card = inputs.card
    if name not in OPERATIONS:
        raise InvalidCall(f"operation {name!r} is unknown; expected one of: {', '.join(OPERATIONS)}")
    if OPERATIONS[name].granted_as not in card.operations:
        raise NotGranted(
            f"{card.name!r} does not offer {name} to you (access {card.access!r}); it offers: {', '.join(granted(card))}"
        )
    if name == "get_activations" and inputs.layer is None:
        raise InvalidCall(f"the card of {card.name!r} lists no layers; pass --layer to choose one")
    return name


def check_size(rows: int, inputs: Inputs) -> None:
    """Checks the size of a call. Raises TooLarge if it exceeds the server's limits, ShapeError for a wrong shape."""

    def zeros(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        return np.broadcast_to(np.zeros((), dtype), shape)  # without memory of that size

    card = inputs.card
    arguments.rows(zeros((rows, *inputs.shape), card.input_dtype), card)
    arguments.cotangent(zeros((rows, *inputs.output_shape), card.output_dtype), rows, card)


def all_classes_nbytes(rows: int, inputs: Inputs) -> int:
    """Returns the bytes of the gradients of all classes, which can be a thousand times those of the rows."""
    return _nb_outputs(inputs) * rows * int(np.prod(inputs.shape)) * inputs.card.output_dtype.itemsize


def batches(rows: int, inputs: Inputs, rng: np.random.Generator) -> list[Batch]:
    """Makes a few different random batches of ``rows`` rows."""
    nbytes = rows * int(np.prod(inputs.shape)) * inputs.card.input_dtype.itemsize
    return [_batch(rows, inputs, rng) for _ in range(min(_POOL, max(1, _POOL_NBYTES // max(1, nbytes))))]


def _batch(rows: int, inputs: Inputs, rng: np.random.Generator) -> Batch:
    card = inputs.card
    regression = card.task == "regression"
    return Batch(
        x=random_rows(card, (rows, *inputs.shape), rng),
        y=rng.standard_normal((rows, *inputs.output_shape)) if regression else rng.integers(0, card.nb_classes, rows),
        label=rng.integers(0, max(1, min(_nb_outputs(inputs), card.nb_classes)), rows),
        cotangent=rng.standard_normal((rows, *inputs.output_shape)).astype(card.output_dtype),
        layer=inputs.layer,
    )


def _nb_outputs(inputs: Inputs) -> int:
    return inputs.output_shape[0] if inputs.output_shape else inputs.card.nb_classes


def _possible(name: str, card: ModelCard) -> bool:
    return name != "get_activations" or bool(card.layer_names)
