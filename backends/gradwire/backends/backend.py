"""What a backend is: a module that knows one framework, and what the models it loads can do.

A backend module defines two names: ``Config``, the keys that it takes in a model's configuration, and
``load(config)``, which returns a model (or ``load(config, members)``, if a ``Config`` is ``made_of`` other models, which it
then gets loaded, by name). The model is arithmetic on *model inputs*: numpy in, numpy out, no
preprocessing, no label forms, no access. `Estimator` puts those around it.

Operations are optional. What a model can do is what it defines (see `capabilities`): a model without ``class_gradient``
has no class gradients, and callers are told so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
OutputKind: TypeAlias = Literal["logits", "probabilities", "labels", "values"]


@runtime_checkable
class Model(Protocol):
    """The one operation that every model has, and what its card says of it."""

    input_dtype: np.dtype[Any]
    """What model inputs are cast to, after preprocessing."""
    output_kind: OutputKind
    layer_names: list[str]
    """In the order of their indices."""
    loss_name: str
    """Empty where there is no loss."""
    loss_reduction: Literal["mean", "sum"]
    """How the model's own loss treats rows, and so how its loss gradient is scaled."""
    device: str
    notes: list[str]
    """What a caller should know about the answers, for the card."""

    may_wait: bool
    """Whether it may wait for something else than its device, the network say."""

    @property
    def fitted(self) -> bool:
        """Whether it can predict yet."""
        ...

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Outputs ``(n, C)``, or ``(n, 1)`` for a model with one output, for model inputs ``x (n, *input_shape)``."""
        ...


@dataclass(frozen=True)
class DeviceReading:
    """How a device is, now.

    Attributes:
        memory_nbytes: By kind: ``used`` by anybody and ``total``; ``allocated`` and ``reserved`` by the framework, in this process.
        utilisation: Part of the time in which it was busy, lately, 0 to 1; None if that cannot be told.
    """

    memory_nbytes: Mapping[str, int]
    utilisation: float | None = None


class Placed(Protocol):
    """What a model may define to tell more of its device."""

    device_uuid: str
    """The same wherever the device is plugged in and however it is numbered; empty for what has none."""

    def device_reading(self) -> DeviceReading | None:
        """How the device is. From any thread, also while the model computes; None where there is nothing to tell."""
        ...


class Telling(Protocol):
    """What a model may define besides `Model.predict` to tell more of its outputs; each stands for itself."""

    def logits(self, x: Array, *, training_mode: bool) -> Array:
        """The outputs before they are squashed into probabilities, in the shape of the outputs."""
        ...

    def uncertainty(self, x: Array, *, training_mode: bool) -> Array:
        """How uncertain the model is of the logits, as a variance, ``(n, 1)``."""
        ...

    def members(self, x: Array, *, training_mode: bool) -> Array:
        """What the outputs are the sum of, ``(n, k, C)``: the outputs of ``k`` members, each times its weight."""
        ...


class Differentiable(Protocol):
    """Operations on rows that a model may define besides `Model.predict`; each stands for itself.

    ``y`` is either indices, int64 ``(n,)``, or one row of class weights each, floating ``(n, C)``: see `labels`.
    """

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The loss of each row, ``(n,)``."""
        ...

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """The loss of each row of outputs, ``(n,)``."""
        ...

    def loss_divisor(self, y: Array) -> float:
        """What a mean over the rows ``y`` divides their summed loss by, whatever the model's own reduction is.

        The number of rows, or, for a loss with class weights, the sum of the rows' weights. It adds up over row blocks:
        ``loss_divisor(all rows) == sum of loss_divisor(blocks)``.
        """
        ...

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """Gradient of the *summed* loss with respect to ``x``, in the shape of ``x``."""
        ...

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """Gradients of class outputs, ``(n, C, *input_shape)``; with one label a row, int64 ``(n,)``, ``(n, 1, *input_shape)``."""
        ...

    def activations(self, x: Array, layer: str | int, *, training_mode: bool) -> Array:
        """What the layer puts out, ``(n, ...)``. Raises InvalidLayer."""
        ...

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        """The cotangent times the Jacobian of the outputs (or of the layer's), in the shape of ``x``."""
        ...


class Trainable(Protocol):
    """What a model defines so that it can be fitted: ``train_step``, or ``fit`` where the framework trains on all rows at once.

    `snapshot` and `rollback` make a fit a transaction, `save` and `restore` keep versions, `untrained_clone` makes clones.
    """

    def train_step(self, x: Array, y: Array, *, training_mode: bool) -> float | None:
        """One step of the optimizer on one batch of model inputs; returns the batch's loss, where the framework tells it."""
        ...

    def fit(self, x: Array, y: Array) -> None:
        """Fits on all rows at once. A model defines either this or ``train_step``."""
        ...

    def snapshot(self) -> object:
        """Everything that a fit can change, as a value of its own."""
        ...

    def rollback(self, snapshot: Any) -> None:
        """Makes the model what it was at ``snapshot``."""
        ...

    def save(self, path: Path) -> None:
        """Writes the weights to one file, which must not need unpickling to be read."""
        ...

    def restore(self, path: Path) -> None:
        """Takes the weights from a file that `save` wrote. Raises before anything changes if they do not fit."""
        ...

    def untrained_clone(self) -> Model:
        """A model of the same architecture that has not been fitted, independent of this one."""
        ...


class BackendModule(Protocol):
    """The two names that an entry point of the group ``gradwire.backends`` must lead to."""

    Config: type[Any]
    load: Callable[..., Model]


Backend: TypeAlias = BackendModule | ModuleType
