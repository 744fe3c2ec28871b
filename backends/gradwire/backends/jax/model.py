"""JAX functions and their parameters; Flax and Equinox modules become such functions.

Every operation is one compiled program, whose arguments are the weights and a padded block of rows. Weights are immutable
arrays: no call but a training step puts others in their place, and a snapshot costs nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

# Before JAX sees a GPU, of which it would take three quarters for itself: other models may want some.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import Field, model_validator

from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import InvalidLabel, InvalidShape, ModelConfigError, ModelFailed, Unsupported
from gradwire.backends.jax import losses, owners, weights
from gradwire.backends.jax import network as networks
from gradwire.backends.jax.gradients import depends
from gradwire.backends.jax.network import JaxFunction
from gradwire.backends.jax.programs import Programs, Scope, padded, padded_rows
from gradwire.backends.jax.traced import Traced

__all__ = ["Config", "JaxFunction", "JaxModel", "load"]

# Gradients of all classes, so many in one program: one forward, and the backwards one after the other. CNN of two
# convolutions, 1x28x28, 10 classes, two busy cores, fastest of many in ms, this / vmap over the classes / jacrev a row / the rows
# repeated for each class / one call a class: 1 row 1.9/2.3/2.3/2.9/4.9, 4 rows 4.7/5.9/5.1/6.9/9.8, 32 rows 28/83/79/89/60,
# 128 rows 138/308/328/418/377. (One gradient: 0.4, 1.0, 6.2, 35.) Not more, because the time to compile grows with them.
_CLASSES_AT_ONCE = 10
_CANNOT_TRACE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
_SHAPES_KEPT = 256
_FREE_SIZE = 8
"""Stands in for a size that may be any where the model is tried with shapes alone; as in `load`."""


class Config(ModelConfig):
    """Keys of a JAX model."""

    factory: ObjectRef
    """The owner's code; called without positional arguments, returns ``(predict, params)``, a `JaxFunction`, or a module."""
    loss: ObjectRef | None = None
    """A loss of optax or the owner's: outputs and targets to one value a row; without it there are no losses."""
    loss_reduction: Literal["mean", "sum"] = "mean"
    """What the model's own loss makes of the rows."""
    loss_labels: Literal["rows", "indices"] | None = None
    """What the loss expects; known of optax's own, rows for others."""
    loss_func: ObjectRef | None = None
    """In place of ``loss``: ART's ``loss_func(params, x, y)``, a number for a batch."""
    optimizer: ObjectRef | None = None
    """Returns an optax gradient transformation; without it, or ``update_func``, there is no fit."""
    update_func: ObjectRef | None = None
    """In place of ``optimizer``: ART's ``update_func(params, x, y)``, which returns new parameters."""
    enable_x64: bool = False
    """Makes and runs this model, and no other, with ``jax_enable_x64``."""
    input_dtype: Literal["int32"] | None = None
    """For models that begin with an embedding; such inputs have no gradients."""
    device: str = Field("cpu", pattern=r"^(cpu|(cuda|gpu)(:\d+)?)$")
    gpu: ClassVar[str] = "gpu:0"

    @model_validator(mode="after")
    def _one_way(self) -> Config:
        for one, other in (("loss", "loss_func"), ("optimizer", "update_func")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"{one} and {other} are both set; one takes the place of the other")
        if self.optimizer is not None and self.loss is None and self.loss_func is None:
            raise ValueError("optimizer is set but loss is not; a model is fitted to a loss")
        if self.loss_labels is not None and self.loss is None:
            raise ValueError("loss_labels is set but loss is not; it says what that loss expects")
        return self


def load(config: Config) -> JaxModel:
    """The model that a configuration describes. Raises ModelConfigError."""
    with Scope(config.enable_x64):
        network = owners.network(config.factory.build("factory"), config.factory.path)
    for key in ("loss_func", "update_func"):
        if getattr(config, key) is not None and not isinstance(network, networks.PlainNetwork):
            raise ModelConfigError(key, "it takes the parameters of a plain function; for a module set loss and optimizer")
    return JaxModel(config, network)


class JaxModel:
    """A network of JAX behind the operations of `backend.Model`, `backend.Differentiable` and `backend.Trainable`.

    An operation that the configuration does not allow is None on the instance: without a loss those of the loss, without
    an optimizer training, without layers activations, with integer inputs all gradients.

    Args:
        config: The model's configuration.
        network: What its factory made.

    Attributes:
        programs: What has been compiled.
    """

    may_wait = False
    fitted = True
    """Weights are there from the start, trained or not."""

    def __init__(self, config: Config, network: networks.Network) -> None:
        leaves = jax.tree.leaves(network.params)
        self._config = config
        self._network = network
        self._x64 = config.enable_x64 or any(leaf.dtype == jnp.float64 for leaf in leaves)
        self._device = _device(config.device)
        first = next((leaf.dtype for leaf in leaves), jnp.float64 if self._x64 else jnp.float32)
        # numpy has no bfloat16, and callers are better off with float32 than with float16.
        self._dtype = np.dtype(np.float64 if first == jnp.float64 else np.float32)
        self.input_dtype: np.dtype[Any] = self._dtype if config.input_dtype is None else np.dtype(config.input_dtype)
        self.programs = Programs()
        self._reaching: dict[str | None, bool] = {}
        self._shapes: dict[tuple[Any, ...], tuple[int, ...]] = {}

        with Scope(self._x64):
            params, rest = network.params, network.rest
            if config.weights is not None:
                params, rest = weights.put(network, weights.read(config.weights, network, config.trust_pickle), config.weights)
            self._put(networks.strong(params), networks.strong(rest))
            # Arguments that lie on a device take a program there, also that of a model without parameters.
            self._no_draw = jax.device_put(np.uint32(0), self._device)
            self._draws = self._steps = 0
            self._loss = losses.build(config, self._dtype)
            self._optimizer = _optimizer(config)
            self._optimizer_state = self._new_optimizer_state()
            self._update = None if config.update_func is None else losses.function(config.update_func, "update_func")
            self._traced = Traced(network, self._loss, self._optimizer, self._dtype)
            self._try_with_shapes()

        self.layer_names = list(network.top_layers)
        self.loss_name = "" if self._loss is None else self._loss.name
        self.loss_reduction: Literal["mean", "sum"] = config.loss_reduction
        self.output_kind: OutputKind = config.output or _output_kind(config, self._loss)
        self.device = "cpu" if self._device.platform == "cpu" else f"gpu:{self._device.local_hardware_id}"
        self.notes = self._notes(first)
        for operation in self._not_there():
            setattr(self, operation, None)

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        return self._run("predict", self._traced.predict, training_mode, self._inputs(x))

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        return self._run("loss", self._traced.loss, training_mode, self._inputs(x), self._targets(x, y))

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        targets = self._row_loss.targets(y, math.prod(predictions.shape[1:]))
        outputs = predictions.astype(self._dtype, copy=False)
        return self._run("loss of outputs", self._traced.loss_of_outputs, False, outputs, targets)

    def loss_divisor(self, y: Array) -> float:
        return float(len(y))

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        self._check_gradients_reach(x, None)
        return self._run("loss gradient", self._traced.loss_gradient, training_mode, self._inputs(x), self._targets(x, y))

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """As in `backend.Differentiable`. A label is a column of the outputs, so that a model with one output takes only 0."""
        self._check_gradients_reach(x, None)
        row = self._shape_of(x, None)
        if len(row) != 1:
            raise Unsupported(f"the model's outputs have shape {('n', *row)}; class gradients are of outputs (n, C)")
        if label is None:
            return self._class_gradients(self._inputs(x), row[0], training_mode)
        if label.max() >= row[0]:
            raise InvalidLabel(f"label {label.max()} is out of range; the model has {row[0]} output(s), counted from 0")
        gradient = self._run("class gradient", self._traced.class_gradient, training_mode, self._inputs(x), label.astype(np.int32))
        return gradient[:, None]

    def activations(self, x: Array, layer: str | int, *, training_mode: bool) -> Array:
        name = networks.find_layer(self._network, layer)
        return self._run(("activations", name), partial(self._traced.seen, name), training_mode, self._inputs(x))

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        name = None if layer is None else networks.find_layer(self._network, layer)
        self._check_gradients_reach(x, name)
        shape = (len(x), *self._shape_of(x, name))
        if cotangent.shape != shape:
            what = "outputs" if name is None else f"layer {name!r}"
            raise InvalidShape(f"cotangent has shape {cotangent.shape}; expected {shape}, as the {what}")
        weighting = cotangent.astype(self._dtype, copy=False)
        return self._run(("vjp", name), partial(self._traced.vjp, name), training_mode, self._inputs(x), weighting)

    def train_step(self, x: Array, y: Array, *, training_mode: bool) -> float | None:
        if self._update is not None:
            return self._owners_step(self._update, x, y)
        training = training_mode and self._network.has_training_mode
        rows = self._padded_rows(len(x), training)
        counted = np.zeros(rows, self._dtype)
        counted[: len(x)] = 1
        arrays = (padded(self._inputs(x), rows), padded(self._targets(x, y), rows), counted)
        with Scope(self._x64):
            step = self.programs.get(("train step", training), partial(self._traced.train_step, training))
            draw = jax.device_put(np.uint32(self._steps), self._device)
            value, params, rest, state = step(self._weights, draw, self._optimizer_state, *arrays)
            loss = float(value)
        self._put(params, rest)
        self._optimizer_state = state
        self._steps += 1
        return loss

    def snapshot(self) -> _Snapshot:
        return _Snapshot(self._params, self._rest, self._optimizer_state, self._steps)

    def rollback(self, snapshot: _Snapshot) -> None:
        self._put(snapshot.params, snapshot.rest)
        self._optimizer_state, self._steps = snapshot.optimizer, snapshot.steps

    def save(self, path: Path) -> None:
        weights.save(self._network, self._params, self._rest, path)

    def restore(self, path: Path) -> None:
        """As in `backend.Trainable`. The optimizer starts anew: its state belongs to other weights."""
        with Scope(self._x64):
            self._put(*weights.put(self._network, weights.read_saved(path), path))
            self._optimizer_state = self._new_optimizer_state()

    def fresh(self) -> JaxModel:
        # A clone begins where the factory does, not with the weights of a file.
        return load(self._config.model_copy(update={"weights": None}))

    # Inside.

    @property
    def _row_loss(self) -> losses.RowLoss | losses.WholeLoss:
        assert self._loss is not None, "operations of the loss are None on a model without one"
        return self._loss

    def _put(self, params: Any, rest: Any) -> None:
        self._params, self._rest = jax.device_put((params, rest), self._device)
        # Flat: taking pytrees of the libraries' own classes apart in every call costs more than a small model's arithmetic.
        self._weights = tuple(jax.tree.leaves((self._params, self._rest)))

    def _inputs(self, x: Array) -> Array:
        return x if x.dtype == self.input_dtype else x.astype(self.input_dtype)

    def _targets(self, x: Array, y: Array) -> Array:
        loss = self._row_loss
        return loss.targets(y, math.prod(self._shape_of(x, None)) if loss.takes_outputs else 0)

    def _padded_rows(self, rows: int, training: bool) -> int:
        # A padding row would count in the statistics of the batch.
        return rows if training and self._network.mixes_rows else padded_rows(rows, self._config.max_batch_rows)

    def _run(
        self,
        name: Any,
        function: Callable[..., Any],
        training_mode: bool,
        *arrays: Array,
        draw: Any = None,
        last: tuple[Any, ...] = (),
    ) -> Array:
        """Calls the program of a function of `Traced` on arrays of one entry a row; ``last`` are arguments of the whole call."""
        training = training_mode and self._network.has_training_mode
        n = len(arrays[0])
        rows = self._padded_rows(n, training)
        with Scope(self._x64):
            program = self.programs.get((name, training), partial(function, training))
            if draw is None:
                draw = self._next_draw() if training else self._no_draw
            result = program(self._weights, draw, *[padded(array, rows) for array in arrays], *last)
            # A copy, because a program may return one of its arguments, and because jax's memory is read-only.
            return np.array(np.asarray(result)[:n], order="C")

    def _next_draw(self) -> Any:
        self._draws += 1
        return jax.device_put(np.uint32(self._draws), self._device)

    def _class_gradients(self, x: Array, nb_outputs: int, training_mode: bool) -> Array:
        groups = -(-nb_outputs // _CLASSES_AT_ONCE)
        size = -(-nb_outputs // groups)
        # The last group begins earlier if it would not be full, so that all groups have one program.
        firsts = [min(group * size, nb_outputs - size) for group in range(groups)]
        # One draw for all classes: they are outputs of one pass.
        draw = self._next_draw() if training_mode else None
        function = partial(self._traced.class_gradients, size)
        parts = [self._run("class gradients", function, training_mode, x, draw=draw, last=(np.int32(first),)) for first in firsts]
        if groups == 1:
            return parts[0]
        result = np.empty((len(x), nb_outputs, *x.shape[1:]), self._dtype)
        for first, part in zip(firsts, parts, strict=True):
            result[:, first : first + size] = part
        return result

    def _owners_step(self, update: Callable[..., Any], x: Array, y: Array) -> float | None:
        """A step of ``update_func``, which is called as ART calls it: not compiled, and with the batch as it is."""
        loss = None if self._loss is None else float(self.loss(x, y, training_mode=False).mean())
        targets = losses.whole_rows(y, self._config.nb_classes, self._config.task == "regression", self._dtype)
        with Scope(self._x64):
            before = self._network.join(self._params, self._rest)
            after = update(before, self._inputs(x), targets)
            shapes = [jax.tree.map(jnp.shape, tree) for tree in (before, after)]
            if shapes[0] != shapes[1]:
                raise ModelFailed(f"update_func returned {shapes[1]}; expected parameters as it was given: {shapes[0]}")
            self._put(*networks.partition(jax.tree.map(lambda old, new: jnp.asarray(new, old.dtype), before, after)))
        return loss

    def _shape_of(self, x: Array, name: str | None) -> tuple[int, ...]:
        """Of a row of what a layer puts out, or of outputs."""
        known = (name, x.shape[1:])
        if known not in self._shapes:
            if len(self._shapes) == _SHAPES_KEPT:
                self._shapes.clear()
            with Scope(self._x64):
                self._shapes[known] = jax.eval_shape(self._seen(name), self._row_like(x.shape[1:])).shape[1:]
        return self._shapes[known]

    def _check_gradients_reach(self, x: Array, name: str | None) -> None:
        if name not in self._reaching:
            with Scope(self._x64):
                self._reaching[name] = depends(self._seen(name), self._row_like(x.shape[1:]))
        if not self._reaching[name]:
            # Zeros would pass for a robust model.
            raise Unsupported(
                "JAX finds no way from there to the inputs: something in between stops gradients, or is not differentiable"
            )

    def _seen(self, name: str | None) -> Callable[[Any], Any]:
        return lambda x: self._traced.seen(name, False, self._weights, self._no_draw, x)

    def _row_like(self, shape: tuple[int, ...]) -> Any:
        return jax.ShapeDtypeStruct((1, *shape), self.input_dtype)

    def _try_with_shapes(self) -> None:
        """Calls the model with the shape of a row alone, which tells the names of layers, and whether JAX can trace it."""
        row = self._row_like(tuple(_FREE_SIZE if size == -1 else size for size in self._config.input_shape))
        try:
            jax.eval_shape(self._seen(None), row)
            self._network.probe(row)
        except _CANNOT_TRACE as e:
            raise ModelConfigError(
                "factory",
                "jax.jit cannot trace the model: its Python code looks at numbers where only shapes are known. Write it with "
                f"jax.numpy and jax.lax ({type(e).__name__}: {str(e).splitlines()[0]})",
            ) from e
        except Exception:
            # `load` tries the model with a row of numbers, and says what is wrong with it.
            return

    def _new_optimizer_state(self) -> Any:
        return (
            None if self._optimizer is None else jax.device_put(networks.strong(self._optimizer.init(self._params)), self._device)
        )

    def _not_there(self) -> list[str]:
        operations = []
        if self._loss is None:
            operations += ["loss", "loss_from_predictions", "loss_divisor", "loss_gradient"]
        elif not self._loss.takes_outputs:
            operations += ["loss_from_predictions"]
        if not self._network.all_layers:
            operations += ["activations"]
        if self._config.input_dtype is not None:
            operations += ["loss_gradient", "class_gradient", "vjp"]
        if self._optimizer is None and self._update is None:
            operations += ["train_step"]
        return operations

    def _notes(self, parameters: Any) -> list[str]:
        notes = []
        if self._network.mixes_rows:
            notes.append("in training mode rows are not padded, because they see each other: each new number of rows compiles once")
        if parameters in (jnp.float16, jnp.bfloat16):
            notes.append(f"the parameters are {parameters}; inputs and answers are float32")
        return notes


class _Snapshot(NamedTuple):
    """Arrays of JAX never change, so that it holds the model's own."""

    params: Any
    rest: Any
    optimizer: Any
    steps: int


def _optimizer(config: Config) -> Any:
    if config.optimizer is None:
        return None
    optimizer = config.optimizer.build("optimizer")
    if not isinstance(optimizer, optax.GradientTransformation):
        path = config.optimizer.path
        raise ModelConfigError(
            "optimizer", f"{path!r} returned {type(optimizer).__name__}; expected an optax.GradientTransformation"
        )
    return optax.with_extra_args_support(optimizer)


def _device(name: str) -> Any:
    kind, _, index = name.partition(":")
    try:
        found = jax.local_devices(backend="cpu" if kind == "cpu" else "gpu")
    except RuntimeError:
        found = []
    if int(index or 0) >= len(found):
        raise ModelConfigError("device", f"{name} is not here; JAX sees {', '.join(map(str, jax.devices()))}")
    return found[int(index or 0)]


def _output_kind(config: Config, loss: losses.RowLoss | losses.WholeLoss | None) -> OutputKind:
    if config.task == "regression":
        return "values"
    return "logits" if loss is None or loss.takes_logits else "probabilities"
