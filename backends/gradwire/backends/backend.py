"""Interface of backends: a module for each framework, and the operations of the models that it loads.

A backend module defines two names: ``Config``, the keys that it takes in a model's configuration, and
``load(config)``, which returns a model. If a ``Config`` is ``made_of`` other models, the function is
``load(config, members)`` and receives them loaded, by name. The model is arithmetic on *model inputs*: numpy in, numpy out,
no preprocessing, no label forms, no access rules. `Estimator` adds those.

Operations are optional, and a model has those that it defines (see `capabilities`): a model without ``class_gradient``
has no class gradients, and its card says so.
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
    """The one operation that every model has, and the attributes for its card."""

    input_dtype: np.dtype[Any]
    """Dtype of model inputs, after preprocessing."""
    output_kind: OutputKind
    layer_names: list[str]
    """Names of the layers, in the order of their indices."""
    loss_name: str
    """Name of the loss; empty if the model has none."""
    loss_reduction: Literal["mean", "sum"]
    """Reduction of the model's own loss over rows, which scales its loss gradient too."""
    device: str
    notes: list[str]
    """Remarks on the answers, which the card shows to callers."""

    may_wait: bool
    """True if the model may wait for anything but its device, such as the network."""

    @property
    def fitted(self) -> bool:
        """True once the model can predict."""
        ...

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Outputs ``(n, C)``, or ``(n, 1)`` for a model with one output, of model inputs ``x (n, *input_shape)``."""
        ...


@dataclass(frozen=True)
class DeviceReading:
    """Memory and utilisation of a device at this moment.

    Attributes:
        memory_nbytes: By kind: ``used`` by all processes and ``total``; ``allocated`` and ``reserved`` by the framework here.
        utilisation: Fraction of recent time in which the device was busy, 0 to 1; None if unknown.
    """

    memory_nbytes: Mapping[str, int]
    utilisation: float | None = None


class DeviceReporter(Protocol):
    """Optional readings of a model's device."""

    device_uuid: str
    """Identifier that is independent of the device's slot and number; empty for devices without one."""

    def device_reading(self) -> DeviceReading | None:
        """Reads the device, from any thread, also while the model computes; None if there are no readings."""
        ...


class OptionalOutputs(Protocol):
    """Further answers of predict, all optional and independent of each other."""

    def logits(self, x: Array, *, training_mode: bool) -> Array:
        """The outputs before they are squashed into probabilities, in the shape of the outputs."""
        ...

    def uncertainty(self, x: Array, *, training_mode: bool) -> Array:
        """Variance of the logits, ``(n, 1)``."""
        ...

    def members(self, x: Array, *, training_mode: bool) -> Array:
        """Summands of the outputs, ``(n, k, C)``: the outputs of ``k`` members, each times its weight."""
        ...


class Differentiable(Protocol):
    """Losses, gradients and activations of rows, all optional and independent of each other.

    ``y`` is either indices, int64 ``(n,)``, or one row of class weights each, floating ``(n, C)``: see `labels`.
    """

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The loss of each row, ``(n,)``."""
        ...

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """The loss of each row of outputs, ``(n,)``."""
        ...

    def loss_divisor(self, y: Array) -> float:
        """Divisor of the summed loss in a mean over the rows ``y``, independent of the model's own reduction.

        It is the number of rows, or, for a loss with class weights, the sum of the rows' weights. It adds up over row blocks:
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
        """Outputs of the layer, ``(n, ...)``. Raises InvalidLayer."""
        ...

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        """The cotangent times the Jacobian of the outputs (or of the layer's), in the shape of ``x``."""
        ...


class Trainable(Protocol):
    """Fitting: ``train_step``, or ``fit`` where the framework trains on all rows together.

    `snapshot` and `rollback` make a fit a transaction, `save` and `restore` keep versions, `untrained_clone` makes clones.
    """

    def train_step(self, x: Array, y: Array, *, training_mode: bool) -> float | None:
        """Takes one step of the optimizer on a batch; returns the batch's loss, if the framework reports it."""
        ...

    def fit(self, x: Array, y: Array) -> None:
        """Fits on all rows together. A model defines either this or ``train_step``."""
        ...

    def snapshot(self) -> object:
        """Copies everything that a fit can change."""
        ...

    def rollback(self, snapshot: Any) -> None:
        """Returns the model to the state of ``snapshot``."""
        ...

    def save(self, path: Path) -> None:
        """Writes the weights to one file, which must be readable without unpickling."""
        ...

    def restore(self, path: Path) -> None:
        """Loads the weights from a file of `save`. Raises before any change if they do not fit."""
        ...

    def untrained_clone(self) -> Model:
        """Makes an independent model of the same architecture that has not been fitted."""
        ...


class BackendModule(Protocol):
    """The two names that an entry point of the group ``gradwire.backends`` must lead to."""

    Config: type[Any]
    load: Callable[..., Model]


Backend: TypeAlias = BackendModule | ModuleType
