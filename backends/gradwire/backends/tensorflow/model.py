"""TensorFlow 2: modules, functions, SavedModels, and Keras models as far as they are callables.

Invariant: gradients are of the inputs alone, except in a training step, and only a training step changes the model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from gradwire.backends import jacobians, layer_names, operations
from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import ModelFailed
from gradwire.backends.tensorflow import files, gradients, layers, losses, training, weights
from gradwire.backends.tensorflow.device import Device, FrameworkErrors, tf
from gradwire.backends.tensorflow.files import Call
from gradwire.backends.tensorflow.network import Network, from_factory, network, with_captured
from gradwire.backends.tensorflow.programs import Graphs, spec_of
from gradwire.backends.tensorflow.training import OptimizerStep, OwnersStep

_Make: TypeAlias = Callable[[], tuple[Callable[..., Any], Sequence[Any]]]
"""Makes a function, and the specs of its arguments; called once for each graph."""


class Config(ModelConfig):
    """Keys of a TensorFlow model."""

    factory: ObjectRef | None = None
    """The owner's code; called without positional arguments, returns a ``tf.Module`` or another callable."""
    saved_model: Path | None = None
    """The folder of a SavedModel, in place of a factory."""
    signature: str | None = None
    """The signature of a SavedModel to call; by default its ``__call__`` if it has one, else ``serving_default``."""
    output_name: str | None = None
    """The output to serve, if the model returns several by name."""
    loss: ObjectRef | None = None
    """A Keras loss class with its arguments, or a callable of targets and outputs; without it there are no losses."""
    optimizer: ObjectRef | None = None
    """A Keras optimizer class with its arguments; without it, and without ``train_step``, there is no fit."""
    train_step: ObjectRef | None = None
    """In place of an optimizer, the owner's function ``(model, x, y)``, which takes one step of training, or its factory."""
    input_dtype: Literal["float32", "float64", "int32", "int64"] | None = None
    """By default the variables'. Integers for models that begin with an embedding; such inputs have no gradients."""
    device: str = Field("cpu", pattern=r"^(cpu|gpu(:\d+)?)$")
    gpu: ClassVar[str] = "gpu:0"

    @model_validator(mode="after")
    def _fit_has_one_way(self) -> Config:
        if self.optimizer is not None and self.train_step is not None:
            raise ValueError("optimizer and train_step are both set; train_step brings its own optimizer")
        if self.optimizer is not None and self.loss is None:
            raise ValueError("optimizer needs loss, which a model is fitted to; set it too")
        if (self.factory is None) == (self.saved_model is None):
            raise ValueError("expected one of factory and saved_model")
        return self


def load(config: Config) -> TensorFlowModel:
    """Makes the model that a configuration describes. Raises ModelConfigError."""
    device = Device(config.device)
    with device():
        loss = None if config.loss is None else losses.build(config.loss)
        owner, calls, dtypes = _source(config)
        if config.input_dtype is not None:
            dtypes = [tf.as_dtype(config.input_dtype)]
        key = "factory" if config.factory else "saved_model"
        made = network(owner, calls, dtypes, config.input_shape, config.output_name, key)
        row_loss = None if loss is None else losses.RowLoss(loss, config.task == "regression", made.dtype)
        model = TensorFlowModel(
            config,
            device,
            made,
            row_loss,
            partial(_step, config),
            operations.output_kind(config, False, row_loss),
            None if config.saved_model is not None else lambda: load(config.model_copy(update={"weights": None})),
        )
        if config.weights is not None:
            model.put_weights(weights.read(config.weights), config.weights)
    return model


class TensorFlowModel:
    """A network behind the operations of `backend.Model`, `backend.Differentiable` and `backend.Trainable`.

    Each operation is one graph, compiled for any number of rows at its first call. An operation that the configuration does not
    allow is None on the instance: without a loss those of the loss, without a step training, with integer inputs all gradients,
    without layers activations.

    Args:
        config: The model's configuration.
        device: Where the network is.
        network: The owner's model; belongs to this one from here on.
        loss: The model's loss, if it has one.
        step: Makes the training step of a network, if the model can be fitted.
        output_kind: Of the outputs.
        make_clone: Loads the same model again, untrained; None if that is impossible.
    """

    may_wait = False
    fitted = True
    """True from the start: weights exist, trained or not."""

    def __init__(
        self,
        config: ModelConfig,
        device: Device,
        network: Network,
        loss: losses.RowLoss | None,
        step: Callable[[Network], OptimizerStep | OwnersStep | None],
        output_kind: OutputKind,
        make_clone: Callable[[], TensorFlowModel] | None,
    ) -> None:
        self._config = config
        self._network = network
        self._loss = loss
        self._make_clone = make_clone
        self._dtype = network.dtype
        self.input_dtype = network.input_dtype
        self._x_spec = tf.TensorSpec([None, *(None if size == -1 else size for size in config.input_shape)], self.input_dtype)
        self._row: tuple[int | None, ...] = (config.nb_classes,)
        """The shape of a row of outputs, updated whenever the network is traced or runs."""
        self._graphs = Graphs(device)
        self._cotangent_rows: dict[Hashable, tuple[int | None, ...]] = {}
        self._graphs.make(("predict", False), *self._predicting(False))
        self._network = with_captured(network, self._graphs.variables(("predict", False)))
        self._step = step(self._network)
        if isinstance(self._step, OwnersStep):
            self._learn_state_of(self._step)

        self.layer_names = layers.names(network.owner)
        self.loss_name = "" if loss is None else loss.name
        self.loss_reduction: Literal["mean", "sum"] = "mean" if loss is None else loss.reduction
        self.output_kind = output_kind
        self.device = device.name
        operations.withdraw(self, self._missing_operations())

    @property
    def notes(self) -> list[str]:
        """Notes for the card: the network's, and operations that are not compiled."""
        untraced = sorted({str(key[0]) for key in self._graphs.untraced})  # type: ignore[index]  # keys are tuples here
        eager = [f"TensorFlow cannot compile the model: {', '.join(untraced)} run operation by operation"] if untraced else []
        return [*self._network.notes, *eager]

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Outputs ``(n, C)``; see `backend.Model`."""
        with self._running(training_mode):
            outputs = self._call(("predict", training_mode), lambda: self._predicting(training_mode), x)
        if len(outputs) != len(x):
            raise ModelFailed(f"the model returned {outputs.shape} for {len(x)} rows; expected one row of outputs each")
        return outputs

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The loss of each row; see `backend.Differentiable`."""
        targets, soft = self._targets(y)

        def function(x: Any, targets: Any) -> Any:
            return self._loss_rows(self._outputs(x, training_mode), targets, soft)

        with self._running(training_mode):
            return self._call(("loss", soft, training_mode), lambda: (function, [self._x_spec, spec_of(targets)]), x, targets)

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """The loss of each row of outputs; see `backend.Differentiable`."""
        targets, soft = self._targets(y)

        def function(outputs: Any, targets: Any) -> Any:
            return self._loss_rows(outputs, targets, soft)

        predictions = np.ascontiguousarray(predictions, self._dtype)
        key = ("loss of predictions", soft)
        with self._running(False):
            return self._call(key, lambda: (function, [spec_of(predictions), spec_of(targets)]), predictions, targets)

    def loss_divisor(self, y: Array) -> float:
        """The divisor of a mean over the rows; see `backend.Differentiable`."""
        return self._row_loss.divisor(y)

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The gradient of the summed loss; see `backend.Differentiable`."""
        targets, soft = self._targets(y)

        def function(x: Any, targets: Any) -> Any:
            with gradients.watching(x) as tape:
                rows = self._loss_rows(self._outputs(x, training_mode), targets, soft)
            return gradients.of(tape, rows, x)

        key = ("loss_gradient", soft, training_mode)
        with self._running(training_mode):
            return self._call(key, lambda: (function, [self._x_spec, spec_of(targets)]), x, targets)

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """Gradients of class outputs; see `backend.Differentiable`.

        A label is a column of the outputs, so that a model with one output takes only 0.
        """
        jacobians.check_columns(("n", *self._row))
        width = self._row[0] or self._config.nb_classes
        if label is None:
            few = gradients.few(len(x), width)
            key = ("class_gradient of all", few, training_mode)

            def every(x: Any) -> Any:
                return gradients.of_every_output(lambda x: self._outputs(x, training_mode), x, few)

            with self._running(training_mode):
                return self._call(key, lambda: (every, [self._x_spec]), x)
        jacobians.check_label(label, width)

        def function(x: Any, label: Any) -> Any:
            with gradients.watching(x) as tape:
                chosen = tf.gather(self._outputs(x, training_mode), label, batch_dims=1)
            return tf.expand_dims(gradients.of(tape, chosen, x), 1)

        label = np.ascontiguousarray(label, np.int64)
        with self._running(training_mode):
            return self._call(("class_gradient", training_mode), lambda: (function, [self._x_spec, spec_of(label)]), x, label)

    def activations(self, x: Array, layer: str | int, *, training_mode: bool) -> Array:
        """The output of a layer; see `backend.Differentiable`."""
        name, _ = layers.find(self._network.owner, layer)

        def function(x: Any) -> Any:
            with layers.capturing(self._network.owner, name) as captured:
                self._outputs(x, training_mode)
            output = captured.output()
            return tf.cast(output, self._dtype) if output.dtype.is_floating else tf.identity(output)

        with self._running(training_mode):
            activations = self._call(("get_activations", name, training_mode), lambda: (function, [self._x_spec]), x)
        layer_names.check_output(name, activations.shape, len(x))
        return activations

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        """The cotangent times the Jacobian; see `backend.Differentiable`."""
        name = None if layer is None else layers.find(self._network.owner, layer)[0]
        key = ("vjp", name, training_mode)

        def function(x: Any, cotangent: Any) -> Any:
            with gradients.watching(x) as tape:
                if name is None:
                    differentiated = self._outputs(x, training_mode)
                else:
                    with layers.capturing(self._network.owner, name) as captured:
                        self._outputs(x, training_mode)
                    differentiated = captured.output()
            self._cotangent_rows[key] = tuple(differentiated.shape[1:])
            weighting = tf.cast(tf.ensure_shape(cotangent, differentiated.shape), differentiated.dtype)
            return gradients.of(tape, differentiated, x, weighting)

        with self._running(training_mode):
            self._made(key, lambda: (function, [self._x_spec, tf.TensorSpec(None, self._dtype)]))
            expected = self._cotangent_rows.get(key, (None,))
            if None in expected:
                # The sizes depend on the rows, or the model is not compiled.
                outputs = self.predict(x, training_mode=False) if name is None else self.activations(x, name, training_mode=False)
                expected = outputs.shape[1:]
            jacobians.check_cotangent(cotangent, (len(x), *expected), name)
            return self._array(key, x, np.ascontiguousarray(cotangent, self._dtype))

    def train_step(self, x: Array, y: Array, *, training_mode: bool) -> float | None:
        """One step of training; see `backend.Trainable`."""
        step = self._step
        assert step is not None, "train_step is None on a model without an optimizer"
        with FrameworkErrors():
            if isinstance(step, OwnersStep):
                targets = self._targets_of_owners_step(y)
                loss = self._call(("train_step", _kind(targets)), lambda: (step, [self._x_spec, spec_of(targets)]), x, targets)
                return float(loss) if step.returns_loss else None
            targets, soft = self._targets(y)
            return float(self._optimizer_step(step, x, targets, soft, self._row_loss.divisor(y), training_mode))

    def snapshot(self) -> weights.Copies:
        """Copies everything that a fit can change."""
        return weights.copies(self._everything)

    def rollback(self, snapshot: weights.Copies) -> None:
        """Restores a snapshot."""
        weights.put_back(self._everything, snapshot)

    def save(self, path: Path) -> None:
        """Writes the weights to a file."""
        weights.save(self._network.variables, path)

    def restore(self, path: Path) -> None:
        """Reads the weights from a file that `save` wrote; the optimizer is reset, because its state fits other weights."""
        self.put_weights(weights.read_saved(path), path)

    def untrained_clone(self) -> TensorFlowModel:
        """A model of the same architecture that has not been fitted. Raises Unsupported if it would share variables."""
        assert self._make_clone is not None, "untrained_clone is None on a model that cannot be loaded again"
        clone = self._make_clone()
        ours = {id(variable) for variable in self._network.variables.values()}
        operations.check_independent(
            any(id(variable) in ours for variable in clone._network.variables.values()), "model or variables"
        )
        return clone

    def put_weights(self, arrays: Mapping[str, Array], source: Path) -> None:
        """Gives the model the arrays read from a file, and resets the optimizer. Raises ModelConfigError if they do not fit."""
        weights.put(self._network.variables, arrays, source)
        if self._step is not None:
            self._step.reset()

    # Inside.

    @property
    def _row_loss(self) -> losses.RowLoss:
        assert self._loss is not None, "operations of the loss are None on a model without one"
        return self._loss

    @property
    def _everything(self) -> list[Any]:
        """All variables that a step may change."""
        step = [] if self._step is None else self._step.state
        return [*self._network.variables.values(), *self._network.others, *step]

    def _targets(self, y: Array) -> tuple[Array, bool]:
        return self._row_loss.targets(y, self._row), self._row_loss.soft(y)

    def _targets_of_owners_step(self, y: Array) -> Array:
        regression = self._config.task == "regression"
        return losses.rows_of(y, self._row, regression, self._dtype) if self._loss is None else self._loss.targets(y, self._row)

    def _outputs(self, x: Any, training_mode: bool) -> Any:
        """Outputs ``(n, C)``, as `dtype`."""
        outputs = layers.outputs(self._network.forward(x, training_mode))
        self._row = tuple(outputs.shape[1:])
        # The same tensor where the dtype is right: Keras knows the logits of its own softmax by the tensor.
        return tf.cast(outputs, self._dtype)

    def _predicting(self, training_mode: bool) -> tuple[Callable[..., Any], Sequence[Any]]:
        return lambda x: tf.identity(self._outputs(x, training_mode)), [self._x_spec]

    def _loss_rows(self, outputs: Any, targets: Any, soft: bool) -> Any:
        return self._row_loss.rows(self._network.for_loss(outputs), targets, soft)

    def _made(self, key: Hashable, make: _Make) -> None:
        if key not in self._graphs:
            self._graphs.make(key, *make())

    def _call(self, key: Hashable, make: _Make, *arrays: Array) -> Array:
        self._made(key, make)
        return self._array(key, *arrays)

    def _array(self, key: Hashable, x: Array, *others: Array) -> Array:
        # A copy in host memory: a model may return one of its own variables.
        result: Array = self._graphs(key, np.ascontiguousarray(x), *others).numpy()
        return result

    def _running(self, training_mode: bool) -> AbstractContextManager[None]:
        """The context that every operation runs in; costs next to nothing in evaluation mode, of which attacks make thousands."""
        return self._in_training_mode() if training_mode else FrameworkErrors()

    @contextmanager
    def _in_training_mode(self) -> Iterator[None]:
        """Puts layers into training mode for the block; restores running statistics afterwards."""
        statistics = [variable for variable in self._network.variables.values() if not variable.trainable]
        before = weights.copies(statistics)
        try:
            with FrameworkErrors():
                yield
        finally:
            weights.put_back(statistics, before)

    def _optimizer_step(
        self, step: OptimizerStep, x: Array, targets: Array, soft: bool, divisor: float, training_mode: bool
    ) -> Array:
        def function(x: Any, targets: Any, divisor: Any) -> Any:
            def loss() -> Any:
                rows = self._loss_rows(self._outputs(x, training_mode), targets, soft)
                return self._row_loss.reduced(rows, divisor)

            return step(loss)

        specs = [self._x_spec, spec_of(targets), tf.TensorSpec([], self._dtype)]
        key = ("train_step", soft, training_mode)
        return self._call(key, lambda: (function, specs), x, targets, np.asarray(divisor, self._dtype))

    def _learn_state_of(self, step: OwnersStep) -> None:
        """Compiles the owner's step, which makes its optimizer's variables, so that the first snapshot holds them."""
        known = [size or 1 for size in self._row]
        y = np.zeros((1, *known), self._dtype) if self._config.task == "regression" else np.zeros(1, np.int64)
        targets = self._targets_of_owners_step(y)
        key = ("train_step", _kind(targets))
        self._graphs.make(key, step, [self._x_spec, spec_of(targets)])
        ours = {id(variable) for variable in (*self._network.variables.values(), *self._network.others)}
        step.learn([variable for variable in self._graphs.variables(key) if id(variable) not in ours])

    def _missing_operations(self) -> list[str]:
        missing: list[str] = []
        if self._loss is None:
            missing += operations.OF_LOSS
        if self.input_dtype.kind != "f":
            missing += operations.OF_GRADIENTS
        if not self.layer_names:
            missing += ["activations"]
        if self._step is None:
            missing += ["train_step"]
        if self._make_clone is None:
            missing += ["untrained_clone"]
        return missing


def _source(config: Config) -> tuple[Any, Sequence[Call], Sequence[Any]]:
    """Loads the owner's object, with the ways to call it and the dtypes that its inputs may have."""
    if config.saved_model is not None:
        return files.load(config.saved_model, config.signature)
    assert config.factory is not None, "one of factory and saved_model is set"
    return from_factory(config.factory)


def _step(config: Config, network: Network) -> training.OptimizerStep | training.OwnersStep | None:
    if config.train_step is not None:
        step = losses.owners_function(config.train_step, "train_step", "(model, x, y)")
        return training.OwnersStep(step, network.owner)
    if config.optimizer is None:
        return None
    return training.OptimizerStep(training.build(config.optimizer), network.trainable, penalties=list)


def _kind(targets: Array) -> tuple[str, int]:
    return targets.dtype.kind, targets.ndim
