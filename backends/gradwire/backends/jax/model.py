"""JAX functions and their parameters; Flax and Equinox modules become such functions.

Every operation is one compiled program, whose arguments are the weights and a padded block of rows. Weights are immutable
arrays: only a training step replaces them, and a snapshot costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

from gradwire.backends import jacobians, operations
from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import ModelConfigError, ModelFailed, Unsupported
from gradwire.backends.example_rows import known_sizes
from gradwire.backends.jax import layers, losses, owners, training, weights
from gradwire.backends.jax.device import find_device
from gradwire.backends.jax.gradients import depends
from gradwire.backends.jax.network import JaxFunction, Network, PlainNetwork, partition, strong
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


class Config(ModelConfig):
    """Keys of a JAX model."""

    factory: ObjectRef
    """The owner's code; called without positional arguments, returns ``(predict, params)``, a `JaxFunction`, or a module."""
    loss: ObjectRef | None = None
    """A loss of optax or the owner's: outputs and targets to one value a row; without it there are no losses."""
    loss_reduction: Literal["mean", "sum"] = "mean"
    """The reduction of the model's own loss over rows."""
    loss_labels: Literal["rows", "indices"] | None = None
    """The form of labels that the loss expects; known of optax's own, rows for others."""
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
            raise ValueError("optimizer needs loss, which a model is fitted to; set it too")
        if self.loss_labels is not None and self.loss is None:
            raise ValueError("loss_labels needs loss, whose labels it describes; set it too")
        return self


def load(config: Config) -> JaxModel:
    """Makes the model that a configuration describes. Raises ModelConfigError."""
    with Scope(config.enable_x64):
        network = owners.network(config.factory.build("factory"), config.factory.path)
    for key in ("loss_func", "update_func"):
        if getattr(config, key) is not None and not isinstance(network, PlainNetwork):
            raise ModelConfigError(key, "takes the parameters of a plain function; for a module set loss and optimizer")
    return JaxModel(config, network)


class JaxModel:
    """A network of JAX behind the operations of `backend.Model`, `backend.Differentiable` and `backend.Trainable`.

    An operation that the configuration does not allow is None on the instance: without a loss those of the loss, without
    an optimizer training, without layers activations, with integer inputs all gradients.

    Args:
        config: The model's configuration.
        network: The network of the model that its factory made.

    Attributes:
        programs: The programs that have been compiled.
    """

    may_wait = False
    fitted = True
    """True from the start: weights exist, trained or not."""

    def __init__(self, config: Config, network: Network) -> None:
        leaves = jax.tree.leaves(network.params)
        self._config = config
        self._network = network
        self._x64 = config.enable_x64 or any(leaf.dtype == jnp.float64 for leaf in leaves)
        self._device = find_device(config.device)
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
                params, rest = weights.put(network, weights.read(config.weights, config.trust_pickle, network), config.weights)
            self._put(strong(params), strong(rest))
            # Arguments that lie on a device take a program there, also that of a model without parameters.
            self._no_draw = jax.device_put(np.uint32(0), self._device)
            self._draws = self._steps = 0
            self._loss = _loss(config, self._dtype)
            self._optimizer = None if config.optimizer is None else training.build(config.optimizer)
            self._optimizer_state = self._new_optimizer_state()
            self._update = None if config.update_func is None else losses.build(config.update_func, "update_func")
            self._traced = Traced(network, self._loss, self._optimizer, self._dtype)
            self._try_with_shapes()

        self.layer_names = layers.names(network)
        self.loss_name = "" if self._loss is None else self._loss.name
        self.loss_reduction: Literal["mean", "sum"] = config.loss_reduction
        self.output_kind: OutputKind = operations.output_kind(config, False, self._loss)
        self.device = "cpu" if self._device.platform == "cpu" else f"gpu:{self._device.local_hardware_id}"
        self.notes = self._notes(first)
        operations.withdraw(self, self._missing_operations())

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Outputs ``(n, C)``; see `backend.Model`."""
        return self._run("predict", self._traced.predict, training_mode, self._inputs(x))

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The loss of each row; see `backend.Differentiable`."""
        return self._run("loss", self._traced.loss, training_mode, self._inputs(x), self._targets(x, y))

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """The loss of each row of outputs; see `backend.Differentiable`."""
        targets = self._row_loss.targets(y, predictions.shape[1:])
        outputs = predictions.astype(self._dtype, copy=False)
        return self._run("loss of outputs", self._traced.loss_of_outputs, False, outputs, targets)

    def loss_divisor(self, y: Array) -> float:
        """The divisor of a mean over the rows; see `backend.Differentiable`."""
        return self._row_loss.divisor(y)

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The gradient of the summed loss; see `backend.Differentiable`."""
        self._check_gradients_reach(x, None)
        return self._run("loss gradient", self._traced.loss_gradient, training_mode, self._inputs(x), self._targets(x, y))

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """Gradients of class outputs; see `backend.Differentiable`.

        A label is a column of the outputs, so that a model with one output takes only 0.
        """
        self._check_gradients_reach(x, None)
        row = self._shape_of(x, None)
        jacobians.check_columns(("n", *row))
        if label is None:
            return self._class_gradients(self._inputs(x), row[0], training_mode)
        jacobians.check_label(label, row[0])
        gradient = self._run("class gradient", self._traced.class_gradient, training_mode, self._inputs(x), label.astype(np.int32))
        return gradient[:, None]

    def activations(self, x: Array, layer: str | int, *, training_mode: bool) -> Array:
        """The output of a layer; see `backend.Differentiable`."""
        name = layers.find(self._network, layer)
        return self._run(("activations", name), partial(self._traced.seen, name), training_mode, self._inputs(x))

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        """The cotangent times the Jacobian; see `backend.Differentiable`."""
        name = None if layer is None else layers.find(self._network, layer)
        self._check_gradients_reach(x, name)
        jacobians.check_cotangent(cotangent, (len(x), *self._shape_of(x, name)), name)
        weighting = cotangent.astype(self._dtype, copy=False)
        return self._run(("vjp", name), partial(self._traced.vjp, name), training_mode, self._inputs(x), weighting)

    def train_step(self, x: Array, y: Array, *, training_mode: bool) -> float | None:
        """One step of training; see `backend.Trainable`."""
        if self._update is not None:
            return self._owners_step(self._update, x, y)
        in_training = training_mode and self._network.has_training_mode
        rows = self._padded_rows(len(x), in_training)
        counted = np.zeros(rows, self._dtype)
        counted[: len(x)] = 1
        arrays = (padded(self._inputs(x), rows), padded(self._targets(x, y), rows), counted)
        with Scope(self._x64):
            step = self.programs.get(("train step", in_training), partial(self._traced.train_step, in_training))
            draw = jax.device_put(np.uint32(self._steps), self._device)
            value, params, rest, state = step(self._weights, draw, self._optimizer_state, *arrays)
            loss = float(value)
        self._put(params, rest)
        self._optimizer_state = state
        self._steps += 1
        return loss

    def snapshot(self) -> _Snapshot:
        """Everything that a fit can change."""
        return _Snapshot(self._params, self._rest, self._optimizer_state, self._steps)

    def rollback(self, snapshot: _Snapshot) -> None:
        """Restores a snapshot."""
        self._put(snapshot.params, snapshot.rest)
        self._optimizer_state, self._steps = snapshot.optimizer, snapshot.steps

    def save(self, path: Path) -> None:
        """Writes the weights to a file."""
        weights.save(self._network, self._params, self._rest, path)

    def restore(self, path: Path) -> None:
        """Reads the weights from a file that `save` wrote; the optimizer is reset, because its state fits other weights."""
        with Scope(self._x64):
            self._put(*weights.put(self._network, weights.read_saved(path), path))
            self._optimizer_state = self._new_optimizer_state()

    def untrained_clone(self) -> JaxModel:
        """A model of the same architecture that has not been fitted; it begins with the factory's weights, not a file's."""
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
        return loss.targets(y, self._shape_of(x, None) if loss.takes_outputs else ())

    def _padded_rows(self, rows: int, in_training: bool) -> int:
        # Padding rows would count in the statistics of the batch.
        return rows if in_training and self._network.mixes_rows else padded_rows(rows, self._config.max_batch_rows)

    def _run(
        self,
        name: Any,
        function: Callable[..., Any],
        training_mode: bool,
        *arrays: Array,
        draw: Any = None,
        last: tuple[Any, ...] = (),
    ) -> Array:
        """Calls the program of a function of `Traced` on arrays of rows, and on ``last``, arguments of the whole call."""
        in_training = training_mode and self._network.has_training_mode
        n = len(arrays[0])
        rows = self._padded_rows(n, in_training)
        with Scope(self._x64):
            program = self.programs.get((name, in_training), partial(function, in_training))
            if draw is None:
                draw = self._next_draw() if in_training else self._no_draw
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
        """Takes a step of ``update_func``, called as in ART: not compiled, and with the batch as it is."""
        loss = None if self._loss is None else float(self.loss(x, y, training_mode=False).mean())
        targets = losses.whole_rows(y, self._config.nb_classes, self._config.task == "regression", self._dtype)
        with Scope(self._x64):
            before = self._network.join(self._params, self._rest)
            after = update(before, self._inputs(x), targets)
            shapes = [jax.tree.map(jnp.shape, tree) for tree in (before, after)]
            if shapes[0] != shapes[1]:
                raise ModelFailed(f"update_func returned {shapes[1]}; expected parameters as it was given: {shapes[0]}")
            self._put(*partition(jax.tree.map(lambda old, new: jnp.asarray(new, old.dtype), before, after)))
        return loss

    def _shape_of(self, x: Array, name: str | None) -> tuple[int, ...]:
        """The shape of a row of a layer's output, or of outputs."""
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
                "JAX finds no path back to the inputs: an operation in between stops gradients, or is not differentiable"
            )

    def _seen(self, name: str | None) -> Callable[[Any], Any]:
        return lambda x: self._traced.seen(name, False, self._weights, self._no_draw, x)

    def _row_like(self, shape: tuple[int, ...]) -> Any:
        return jax.ShapeDtypeStruct((1, *shape), self.input_dtype)

    def _try_with_shapes(self) -> None:
        """Traces the model with the shape of a row, to find the names of layers and errors of tracing."""
        row = self._row_like(known_sizes(self._config.input_shape))
        try:
            jax.eval_shape(self._seen(None), row)
            self._network.probe(row)
        except _CANNOT_TRACE as e:
            raise ModelConfigError(
                "factory",
                "jax.jit cannot trace the model: its Python code needs numbers, but only shapes are known. Write it with "
                f"jax.numpy and jax.lax ({type(e).__name__}: {str(e).splitlines()[0]})",
            ) from e
        except Exception:
            # `load` tries the model with a row of numbers, and reports its errors.
            return

    def _new_optimizer_state(self) -> Any:
        return None if self._optimizer is None else jax.device_put(strong(self._optimizer.init(self._params)), self._device)

    def _missing_operations(self) -> list[str]:
        missing: list[str] = []
        if self._loss is None:
            missing += operations.OF_LOSS
        elif not self._loss.takes_outputs:
            missing += ["loss_from_predictions"]
        if not self._network.all_layers:
            missing += ["activations"]
        if self._config.input_dtype is not None:
            missing += operations.OF_GRADIENTS
        if self._optimizer is None and self._update is None:
            missing += ["train_step"]
        return missing

    def _notes(self, parameters: Any) -> list[str]:
        notes = []
        if self._network.mixes_rows:
            notes.append("in training mode rows are not padded, because they see each other: each new number of rows compiles once")
        if parameters in (jnp.float16, jnp.bfloat16):
            notes.append(f"the parameters are {parameters}; inputs and answers are float32")
        return notes


class _Snapshot(NamedTuple):
    """The model's own arrays, because arrays of JAX never change."""

    params: Any
    rest: Any
    optimizer: Any
    steps: int


def _loss(config: Config, dtype: np.dtype[Any]) -> losses.RowLoss | losses.WholeLoss | None:
    regression = config.task == "regression"
    if config.loss_func is not None:
        loss = losses.build(config.loss_func, "loss_func")
        return losses.WholeLoss(loss, regression, dtype, config.loss_reduction, config.nb_classes)
    if config.loss is None:
        return None
    return losses.RowLoss(losses.build(config.loss), regression, dtype, config.loss_reduction, config.loss_labels)
