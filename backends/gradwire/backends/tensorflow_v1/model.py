"""TensorFlow 1 graphs and sessions, beside eager TensorFlow 2 in the same process.

Invariant: operations for gradients are added to the graph once, most of them at loading, and run as callables of the session.
Calls do not make the graph larger, and only a training step changes variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import tensorflow as tf
from pydantic import Field, model_validator

from gradwire.backends import jacobians, layer_names, operations
from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import ModelConfigError
from gradwire.backends.example_rows import known_sizes
from gradwire.backends.tensorflow_v1 import files, gradients, layers, losses, weights
from gradwire.backends.tensorflow_v1.device import device_of
from gradwire.backends.tensorflow_v1.files import Tensors
from gradwire.backends.tensorflow_v1.graph import Graph
from gradwire.backends.tensorflow_v1.labels import LabelForm
from gradwire.backends.tensorflow_v1.layers import Layers
from gradwire.backends.tensorflow_v1.network import Network
from gradwire.backends.tensorflow_v1.programs import Program

__all__ = ["Config", "Graph", "TensorFlowV1Model", "load"]

# Gradients of all classes, CNN of two convolutions, 1x28x28, 10 classes, one thread, ms, fastest of many: each row once a
# class through one gradient / one gradient a class, built once: 1 row 1.4/1.7, 2 rows 2.8/2.8, 4 rows 5.6/5.2, 8 rows
# 10.9/9.8, 32 rows 43/37, 128 rows 185/143 (177/72 with two threads: classes run side by side). A vectorised loop over
# classes in the graph: 1.7, 3.3, 6.0, 12.7, 55, 218.
_REPEAT_MAX_ROWS = 2
# Bounds the backward passes that gradients of each class add to the graph.
_MAX_BUILT_CLASSES = 16
# Bounds the memory of repeating.
_REPEATED_ROWS = 64
_MAX_PROBE_ROWS = 16


class Config(ModelConfig):
    """Keys of a TensorFlow 1 graph: one of ``factory``, ``saved_model`` and ``meta_graph``."""

    factory: ObjectRef | None = None
    """The owner's code; called without positional arguments, returns a `Graph`."""
    saved_model: Path | None = None
    """The folder of a SavedModel that TensorFlow 1 code wrote."""
    tags: list[str] = Field(["serve"])
    signature: str = "serving_default"
    """The signature of the SavedModel that names its input and output."""
    meta_graph: Path | None = None
    """The ``.meta`` file that ``tf.compat.v1.train.Saver.save`` wrote."""
    checkpoint: Path | None = None
    """The path that ``Saver.save`` returned, or its folder."""
    tensors: Tensors = Tensors()
    """Names of the parts of a graph from files."""
    feed_dict: dict[str, Any] = Field({})
    """Values of other placeholders of a graph from files, by name."""
    training_feed_dict: dict[str, Any] = Field({})
    """Their values in training, if they differ."""
    loss_reduction: Literal["mean", "sum"] | None = None
    """The reduction of the loss over rows; by default found out at loading if the loss is one number."""
    device: str = Field("cpu", pattern=r"^(cpu|gpu(:\d+)?)$")
    gpu: ClassVar[str] = "gpu:0"

    @model_validator(mode="after")
    def _one_source(self) -> Config:
        if sum(source is not None for source in (self.factory, self.saved_model, self.meta_graph)) != 1:
            raise ValueError("expected one of factory, saved_model and meta_graph")
        if (self.meta_graph is None) != (self.checkpoint is None):
            raise ValueError("meta_graph and checkpoint go together: the graph is in one, its weights are in the other")
        if self.factory is not None:
            for key in ("tags", "signature", "tensors", "feed_dict", "training_feed_dict", "device"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} is for graphs from files; a factory sets it in the Graph that it returns")
        return self

    @property
    def source(self) -> str:
        """The key that the graph comes from, for errors."""
        return next(key for key in ("factory", "saved_model", "meta_graph") if getattr(self, key) is not None)


def load(config: Config) -> TensorFlowV1Model:
    """Makes the model that a configuration describes. Raises ModelConfigError."""
    model = TensorFlowV1Model(config, _graph(config))
    if config.weights is not None:
        model.put_weights(weights.read(config.weights), config.weights)
    return model


class TensorFlowV1Model:
    """A graph in a session behind the operations of `backend.Model`, `backend.Differentiable` and `backend.Trainable`.

    An operation that the graph does not allow is None on the instance: without a loss those of the loss, without a train
    operation training, without gradients in the graph those of the outputs.

    Args:
        config: The model's configuration.
        graph: From its factory or its files; belongs to the model from here on.
    """

    may_wait = False
    fitted = True
    """True from the start: weights exist, trained or not."""

    def __init__(self, config: Config, graph: Graph) -> None:
        self._config = config
        network = Network(graph, config.source)
        self._network = network
        self._variables = network.variables
        self.input_dtype: np.dtype[Any] = _input_dtype(network, config)
        self._dtype = self.input_dtype if self.input_dtype.kind == "f" else np.dtype(np.float32)
        self._layers = Layers(network)

        self._predict = network.program([network.output], [network.input])
        probe = self._probe()
        self._output_shape = self._tried_output_shape(probe)
        self._nb_outputs = self._output_shape[-1] if self._output_shape else 1
        outputs = np.ones((1, *self._output_shape))
        self._product = self._if_it_runs(gradients.product(network, network.output), probe, outputs)
        self._class_gradients: Program | None = None

        self._form: LabelForm | None = None
        self._loss: losses.RowLoss | None = None
        if network.labels is not None:
            self._form = LabelForm(network.labels, self._nb_outputs, config.nb_classes, config.task == "regression", network.key)
            if network.loss is not None:
                self._loss = losses.derive(network, self._form, config.loss_reduction, probe)
        self._build_loss(probe)
        self._step = self._build_step()

        self.layer_names = self._layers.names
        self.loss_name = "" if self._loss is None else self._loss.name
        self.loss_reduction: Literal["mean", "sum"] = "mean" if self._loss is None else self._loss.reduction
        self.output_kind: OutputKind = operations.output_kind(config, _ends_in_probabilities(network), None)
        self.device = config.device if config.factory is None else device_of(network.session)
        self.notes = self._notes()
        operations.withdraw(self, self._missing_operations())

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Outputs ``(n, C)``; see `backend.Model`."""
        return layers.outputs(self._answer(self._predict, self._inputs(x), training_mode=training_mode))

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The loss of each row; see `backend.Differentiable`."""
        return self._answer(self._row_losses, self._inputs(x), self._targets(y), training_mode=training_mode)

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """The loss of each row of outputs; see `backend.Differentiable`."""
        outputs = predictions if self._output_shape else predictions.reshape(-1)
        return self._array(self._row_loss.rows(outputs, self._targets(y)))

    def loss_divisor(self, y: Array) -> float:
        """The divisor of a mean over the rows; see `backend.Differentiable`."""
        return self._row_loss.divisor(y)

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The gradient of the summed loss; see `backend.Differentiable`."""
        return self._answer(self._loss_gradient, self._inputs(x), self._targets(y), training_mode=training_mode)

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """Gradients of class outputs; see `backend.Differentiable`.

        A label is a column of the outputs, so that a model with one output takes only 0.
        """
        if len(self._output_shape) > 1:
            jacobians.check_columns(("n", *self._output_shape))
        rows = self._inputs(x)
        if label is not None:
            jacobians.check_label(label, self._nb_outputs)
            return self._gradient_of_labels(rows, label, training_mode).reshape(len(x), 1, *x.shape[1:])
        # In training mode batch normalisation mixes rows, and each repetition would draw a dropout of its own.
        if 1 < self._nb_outputs <= _MAX_BUILT_CLASSES and (training_mode or len(x) > _REPEAT_MAX_ROWS):
            return self._gradients_built_by_class(rows, training_mode)
        return self._gradients_by_repeating(rows, training_mode)

    def activations(self, x: Array, layer: str | int, *, training_mode: bool) -> Array:
        """The output of a layer; see `backend.Differentiable`."""
        found = layers.find(self._layers, layer)
        (result,) = self._network.run(self._layers.activations(found), self._inputs(x), training_mode=training_mode)
        layer_names.check_output(found.name, result.shape, len(x))
        return self._array(result)

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        """The cotangent times the Jacobian; see `backend.Differentiable`."""
        if layer is None:
            assert self._product is not None, "vjp is None on a graph without gradients of the outputs"
            program, shape = self._product, (len(x), self._nb_outputs)
            if len(self._output_shape) > 1:
                shape = self.predict(x, training_mode=training_mode).shape
        else:
            found = layers.find(self._layers, layer)
            program, shape = self._layers.product(found), found.shape(len(x))
            if None in shape:
                shape = self.activations(x, layer, training_mode=training_mode).shape
        jacobians.check_cotangent(cotangent, shape, layer)
        return self._vjp(program, self._inputs(x), cotangent, training_mode)

    def train_step(self, x: Array, y: Array, *, training_mode: bool) -> float | None:
        """One run of the train operation; see `backend.Trainable`."""
        assert self._step is not None, "train_step is None on a model without a train operation"
        found = self._network.step(self._step, self._inputs(x), self._targets(y), training_mode=training_mode)
        return None if self._loss is None else self._loss.reduced(found[0], self._loss.divisor(y))

    def snapshot(self) -> weights.Copies:
        """Copies everything that a fit can change."""
        return weights.copies(self._variables)

    def rollback(self, snapshot: weights.Copies) -> None:
        """Restores a snapshot."""
        weights.put_back(self._variables, snapshot)

    def save(self, path: Path) -> None:
        """Writes the weights to a file."""
        weights.save(self._variables, path)

    def restore(self, path: Path) -> None:
        """Reads the weights from a file that `save` wrote, with the optimizer's slots, which are variables too."""
        self.put_weights(weights.read_saved(path), path)

    def untrained_clone(self) -> TensorFlowV1Model:
        """A model of the same architecture that has not been fitted. Raises Unsupported if it would share the graph."""
        graph = _graph(self._config)
        ours = self._network.session
        operations.check_independent(graph.session is ours or graph.session.graph is ours.graph, "session or graph")
        if self._config.factory is None:
            files.initialise(graph.session)
        # The reduction of the loss is known by now, and cannot always be found out from an untrained model.
        reduction = None if self._loss is None else self._loss.reduction
        return TensorFlowV1Model(self._config.model_copy(update={"loss_reduction": reduction}), graph)

    def put_weights(self, arrays: Mapping[str, Array], source: Path) -> None:
        """Gives the model the arrays read from a file. Raises ModelConfigError, before anything changes, if they do not fit."""
        weights.put(self._variables, arrays, source, needed=self._network.output)

    # Inside.

    @property
    def _row_loss(self) -> losses.RowLoss:
        assert self._loss is not None, "operations of the loss are None on a model without one"
        return self._loss

    def _inputs(self, x: Array) -> Array:
        return np.asarray(x, self._predict.dtypes[0], order="C")

    def _targets(self, y: Array) -> Array:
        if self._loss is not None:
            return self._loss.targets(y, self._output_shape)
        assert self._form is not None, "operations that take labels are None on a model without a placeholder for them"
        return self._form.array(y)

    def _array(self, result: Any) -> Array:
        """Copies a fetch, which may lie in memory of a variable or constant; floats in the model's precision."""
        floating = result.dtype.kind not in "biu"
        return np.array(result, self._dtype if floating else None, order="C")

    def _answer(self, program: Program | None, *arrays: Array, training_mode: bool) -> Array:
        assert program is not None, "operations without a program are None on the instance"
        return self._array(self._network.run(program, *arrays, training_mode=training_mode)[0])

    def _vjp(self, program: Program, rows: Array, cotangent: Array, training_mode: bool) -> Array:
        weighting = np.asarray(cotangent, program.dtypes[1], order="C")
        if program is self._product and not self._output_shape:
            weighting = weighting.reshape(-1)
        return self._answer(program, rows, weighting, training_mode=training_mode)

    def _gradient_of_labels(self, rows: Array, label: Array, training_mode: bool) -> Array:
        assert self._product is not None, "class_gradient is None on a graph without gradients of the outputs"
        chosen = np.zeros((len(rows), self._nb_outputs), self._product.dtypes[1])
        chosen[np.arange(len(rows)), label] = 1
        return self._vjp(self._product, rows, chosen, training_mode)

    def _gradients_by_repeating(self, rows: Array, training_mode: bool) -> Array:
        """Repeats each row for each class, for some classes at a time."""
        max_classes = 1 if training_mode else max(1, _REPEATED_ROWS // len(rows))
        return jacobians.by_repeating(
            lambda x, label: self._gradient_of_labels(x, label, training_mode), rows, self._nb_outputs, self._dtype, max_classes
        )

    def _gradients_built_by_class(self, rows: Array, training_mode: bool) -> Array:
        """Runs one forward, and a backward for each class, which are added to the graph at the first call."""
        if self._class_gradients is None:
            self._class_gradients = gradients.of_every_output(self._network, self._nb_outputs)
        result = np.empty((len(rows), self._nb_outputs, *rows.shape[1:]), self._dtype)
        for k, gradient in enumerate(self._network.run(self._class_gradients, rows, training_mode=training_mode)):
            result[:, k] = gradient
        return result

    def _probe(self) -> Array | None:
        """Rows to try the graph with, one a class if possible; None if sizes are free and rows fail."""
        n = min(max(self._config.nb_classes, 3), _MAX_PROBE_ROWS)
        shape = (n, *known_sizes(self._config.input_shape))
        low, high = (0.0, 1.0) if self._config.clip_values is None else (float(np.min(v)) for v in self._config.clip_values)
        x: Array = np.random.default_rng(0).uniform(low, high, shape)
        x = (x if self.input_dtype.kind == "f" else x.round()).astype(self.input_dtype)
        try:
            self.predict(x[:1], training_mode=False)
        except tf.errors.OpError as e:
            if -1 in self._config.input_shape:
                return None
            raise ModelConfigError("input_shape", f"the graph does not take a row of shape {list(shape[1:])}: {e}") from e
        return x

    def _tried_output_shape(self, probe: Array | None) -> tuple[int, ...]:
        """The shape of a row of outputs: ``(C,)``, or ``()`` for one output without an axis."""
        shape = self._network.output.shape
        if shape.rank is not None and None not in shape.as_list()[1:]:
            return tuple(shape.as_list()[1:])
        if probe is None:
            return (self._config.nb_classes,)
        tried: Array = self._network.run(self._predict, self._inputs(probe[:1]), training_mode=False)[0]
        return tried.shape[1:]

    def _if_it_runs(self, program: Program | None, probe: Array | None, weighting: Array) -> Program | None:
        """A gradient's program, or None if it fails when run, as some gradients of TensorFlow 2 functions do."""
        if program is None or probe is None:
            return program
        try:
            self._network.run(program, self._inputs(probe[:1]), weighting.astype(program.dtypes[1]), training_mode=False)
        except tf.errors.OpError:
            return None
        return program

    def _build_loss(self, probe: Array | None) -> None:
        self._row_losses: Program | None = None
        self._loss_gradient: Program | None = None
        if self._loss is None or self._form is None:
            return
        feeds = [self._network.input, self._network.labels]
        self._row_losses = self._network.program([self._loss.tensor], feeds)
        if self._loss.gradient is not None:
            gradient = self._network.program([self._loss.gradient], feeds)
            self._loss_gradient = self._if_it_runs(gradient, probe, self._form.samples(1))

    def _build_step(self) -> Program | None:
        if self._network.train is None:
            return None
        loss = [] if self._loss is None else [self._loss.owners]
        return self._network.program(loss, [self._network.input, self._network.labels], targets=[self._network.train])

    def _missing_operations(self) -> list[str]:
        missing: list[str] = []
        if self._loss is None:
            missing += operations.OF_LOSS
        elif not self._loss.takes_outputs:
            missing += ["loss_from_predictions"]
        if self._loss_gradient is None:
            missing += ["loss_gradient"]
        if self._product is None:
            missing += ["class_gradient", "vjp"]
        if self._step is None:
            missing += ["train_step"]
        if self._config.factory is None and not files.can_initialise(self._network.session):
            missing += ["untrained_clone"]
        return missing

    def _notes(self) -> list[str]:
        notes = [] if self._loss is None or not self._loss.note else [self._loss.note]
        if self._product is None and self._dtype == self.input_dtype:
            notes.append("the graph has no way back from its outputs to its input, so that they have no gradients")
        if not self._network.has_modes:
            notes.append("the graph has no learning phase: training_mode changes nothing")
        return notes


def _graph(config: Config) -> Graph:
    if config.saved_model is not None:
        graph = files.saved_model(config.saved_model, config.tags, config.signature, config.tensors, config.device)
    elif config.meta_graph is not None and config.checkpoint is not None:
        graph = files.meta_graph(config.meta_graph, config.checkpoint, config.tensors, config.device)
    else:
        assert config.factory is not None, "one of the three is set"
        made = config.factory.build("factory")
        if not isinstance(made, Graph):
            raise ModelConfigError(
                "factory",
                f"{config.factory.path!r} returned {type(made).__name__}; expected a gradwire.backends.tensorflow_v1.Graph",
            )
        return made
    return Graph(**{**vars(graph), "feed_dict": config.feed_dict, "training_feed_dict": config.training_feed_dict})


def _input_dtype(network: Network, config: Config) -> np.dtype[Any]:
    """The graph's float64 or integer type; float32 otherwise, which is cast for a graph of half precision."""
    tensor = network.input
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer):
        raise ModelConfigError(network.key, f"input takes {tensor.dtype.name}; expected numbers")
    expected = [None, *(None if size == -1 else size for size in config.input_shape)]
    if not tensor.shape.is_compatible_with(expected):
        raise ModelConfigError("input_shape", f"{list(config.input_shape)} is not what the graph takes: {tensor.shape}")
    if tensor.shape.rank is not None and tensor.shape.as_list()[0] is not None:
        raise ModelConfigError(network.key, f"input has a fixed number of rows, {tensor.shape}; expected None there")
    if tensor.dtype.is_floating:
        return np.dtype(np.float64 if tensor.dtype == tf.float64 else np.float32)
    dtype: np.dtype[Any] = np.dtype(tensor.dtype.as_numpy_dtype)
    return dtype


def _ends_in_probabilities(network: Network) -> bool:
    return network.output.op.type in ("Softmax", "Sigmoid")
