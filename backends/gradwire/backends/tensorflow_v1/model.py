"""TensorFlow 1 graphs and sessions, beside eager TensorFlow 2 in the same process.

Operations for gradients are added to the graph once, most of them at loading, and run as callables of the session: no
call makes the graph larger or changes a variable, but for a training step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import tensorflow as tf
from pydantic import Field, model_validator

from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import InvalidLabel, ModelConfigError, Unsupported
from gradwire.backends.tensorflow_v1 import files, losses
from gradwire.backends.tensorflow_v1.files import Tensors
from gradwire.backends.tensorflow_v1.graph import Graph
from gradwire.backends.tensorflow_v1.labels import LabelForm
from gradwire.backends.tensorflow_v1.layers import Layers, check_cotangent, product
from gradwire.backends.tensorflow_v1.network import Network
from gradwire.backends.tensorflow_v1.programs import Program

__all__ = ["Config", "Graph", "TensorFlowV1Model", "load"]

# Gradients of all classes, CNN of two convolutions, 1x28x28, 10 classes, one thread, ms, fastest of many: each row once a
# class through one gradient / one gradient a class, built once: 1 row 1.4/1.7, 2 rows 2.8/2.8, 4 rows 5.6/5.2, 8 rows
# 10.9/9.8, 32 rows 43/37, 128 rows 185/143 (177/72 with two threads: classes run side by side). A vectorised loop over
# classes in the graph: 1.7, 3.3, 6.0, 12.7, 55, 218.
_REPEAT_MAX_ROWS = 2
# One gradient a class makes the graph larger by so many backward passes.
_MAX_BUILT_CLASSES = 16
# Bounds the memory of repeating.
_REPEATED_ROWS = 64
_FREE_SIZE = 8
_MAX_PROBE_ROWS = 16


class Config(ModelConfig):
    """Keys of a TensorFlow 1 graph: one of ``factory``, ``saved_model`` and ``meta_graph``."""

    factory: ObjectRef | None = None
    """The owner's code; called without positional arguments, returns a `Graph`."""
    saved_model: Path | None = None
    """The folder of a SavedModel that TensorFlow 1 code wrote."""
    tags: list[str] = Field(["serve"])
    signature: str = "serving_default"
    """Of the SavedModel; names its input and output."""
    meta_graph: Path | None = None
    """The ``.meta`` file that ``tf.compat.v1.train.Saver.save`` wrote."""
    checkpoint: Path | None = None
    """What ``Saver.save`` returned, or the folder that it is in."""
    tensors: Tensors = Tensors()
    """What is what in a graph from files."""
    feed_dict: dict[str, Any] = Field({})
    """Values of other placeholders of a graph from files, by name."""
    training_feed_dict: dict[str, Any] = Field({})
    """Their values in training, where they differ."""
    loss_reduction: Literal["mean", "sum"] | None = None
    """How the loss treats rows; found out at loading if not said, where it is one number."""
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
                    raise ValueError(f"{key} is for graphs from files; a factory says it with the Graph that it returns")
        return self

    @property
    def source(self) -> str:
        """The key that the graph comes from, for errors."""
        return next(key for key in ("factory", "saved_model", "meta_graph") if getattr(self, key) is not None)


def load(config: Config) -> TensorFlowV1Model:
    """The model that a configuration describes. Raises ModelConfigError."""
    model = TensorFlowV1Model(config, _graph(config))
    if config.weights is not None:
        model.load_weights(config.weights)
    return model


class TensorFlowV1Model:
    """A graph in a session behind the operations of `backend.Model`, `backend.Differentiable` and `backend.Trainable`.

    An operation that the graph does not allow is None on the instance: without a loss those of the loss, without a train
    operation training, without a way back from outputs to the input their gradients.

    Args:
        config: The model's configuration.
        graph: What its factory made, or what is in its files; it belongs to the model from here on.
    """

    may_wait = False
    fitted = True
    """Weights are there from the start, trained or not."""

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
        self._product = self._if_it_runs(product(network, network.output), probe, outputs)
        self._class_gradients: Program | None = None

        self._form: LabelForm | None = None
        self._loss: losses.RowLoss | None = None
        if network.labels is not None:
            self._form = LabelForm(network.labels, self._nb_outputs, config.nb_classes, config.task == "regression", network.key)
            if network.loss is not None:
                self._loss = losses.build(network, self._form, config.loss_reduction, probe)
        self._build_loss(probe)
        self._step = self._build_step()

        self.layer_names = self._layers.names
        self.loss_name = "" if self._loss is None else str(network.loss.op.name)
        self.loss_reduction: Literal["mean", "sum"] = "mean" if self._loss is None else self._loss.reduction
        self.output_kind: OutputKind = config.output or _output_kind(network, config)
        self.device = _device(network, config)
        self.notes = self._notes()
        for operation in self._not_there():
            setattr(self, operation, None)

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        return _columns(self._answer(self._predict, self._rows(x), training_mode=training_mode))

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        return self._answer(self._row_losses, self._rows(x), self._labels(y), training_mode=training_mode)

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        assert self._losses_of_outputs is not None, "loss_from_predictions is None where the loss needs more than outputs"
        outputs = np.array(predictions, self._losses_of_outputs.dtypes[0], order="C")
        if not self._output_shape:
            outputs = outputs.reshape(-1)
        return self._answer(self._losses_of_outputs, outputs, self._labels(y), training_mode=False)

    def loss_divisor(self, y: Array) -> float:
        """As in `backend.Differentiable`. Class weights are in the rows' losses: TensorFlow 1 divides by the rows."""
        return float(len(y))

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        return self._answer(self._loss_gradient, self._rows(x), self._labels(y), training_mode=training_mode)

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """As in `backend.Differentiable`. A label is a column of the outputs, so that a model with one output takes only 0."""
        if len(self._output_shape) > 1:
            raise Unsupported(f"the model puts out {self._output_shape} for a row; class gradients are of outputs (n, C)")
        rows = self._rows(x)
        if label is not None:
            if label.max() >= self._nb_outputs:
                raise InvalidLabel(
                    f"label {label.max()} is out of range; the model has {self._nb_outputs} output(s), counted from 0"
                )
            return self._gradient_of_labels(rows, label, training_mode).reshape(len(x), 1, *x.shape[1:])
        # In training mode rows see each other through batch normalisation, and each repetition its own dropout.
        if 1 < self._nb_outputs <= _MAX_BUILT_CLASSES and (training_mode or len(x) > _REPEAT_MAX_ROWS):
            return self._gradients_built_by_class(rows, training_mode)
        return self._gradients_by_repeating(rows, training_mode)

    def activations(self, x: Array, layer: str | int, *, training_mode: bool) -> Array:
        found = self._layers.find(layer)
        (result,) = self._network.run(self._layers.activations(found), self._rows(x), training_mode=training_mode)
        found.check(result.shape, len(x))
        return self._array(result)

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        if layer is None:
            assert self._product is not None, "vjp is None where there is no way back from the outputs"
            program, what, shape = self._product, "outputs", (len(x), self._nb_outputs)
            if len(self._output_shape) > 1:
                shape = self.predict(x, training_mode=training_mode).shape
        else:
            found = self._layers.find(layer)
            program, what, shape = self._layers.product(found), f"layer {layer!r}", found.shape(len(x))
            if None in shape:
                shape = self.activations(x, layer, training_mode=training_mode).shape
        check_cotangent(cotangent.shape, shape, what)
        return self._vjp(program, self._rows(x), cotangent, training_mode)

    def train_step(self, x: Array, y: Array, *, training_mode: bool) -> float | None:
        assert self._step is not None, "train_step is None on a model without a train operation"
        found = self._network.step(self._step, self._rows(x), self._labels(y), training_mode=training_mode)
        if self._loss is None:
            return None
        return float(found[0].mean() if self._loss.reduction == "mean" else found[0].sum())

    def snapshot(self) -> Mapping[str, Array]:
        return self._variables.read()

    def rollback(self, snapshot: Mapping[str, Array]) -> None:
        self._variables.put(snapshot)

    def save(self, path: Path) -> None:
        self._variables.save(path)

    def restore(self, path: Path) -> None:
        """As in `backend.Trainable`; the optimizer's slots are among the variables."""
        self.load_weights(path)

    def fresh(self) -> TensorFlowV1Model:
        graph = _graph(self._config)
        if graph.session is self._network.session or graph.session.graph is self._network.session.graph:
            raise Unsupported(
                "the model's factory returns the same session or graph again; a clone needs a factory that makes new ones"
            )
        if self._config.factory is None:
            files.start_anew(graph.session)
        # What the loss does with rows is known by now, and a new model's rows may not tell.
        reduction = None if self._loss is None else self._loss.reduction
        return TensorFlowV1Model(self._config.model_copy(update={"loss_reduction": reduction}), graph)

    def load_weights(self, path: Path) -> None:
        """Takes the values of variables from a safetensors file. Raises ModelConfigError, before anything changes."""
        self._variables.load(path, needed=self._network.output)

    # Inside.

    def _rows(self, x: Array) -> Array:
        return np.asarray(x, self._predict.dtypes[0], order="C")

    def _labels(self, y: Array) -> Array:
        assert self._form is not None, "operations that take labels are None on a model without a placeholder for them"
        return self._form.array(y)

    def _array(self, result: Any) -> Array:
        """A copy, because a fetch may lie in memory of a variable or constant; floats in the model's precision."""
        floating = result.dtype.kind not in "biu"
        return np.array(result, self._dtype if floating else None, order="C")

    def _answer(self, program: Program | None, *arrays: Array, training_mode: bool) -> Array:
        assert program is not None, "operations without a program are None on the instance"
        return self._array(self._network.run(program, *arrays, training_mode=training_mode)[0])

    def _vjp(self, program: Program, rows: Array, cotangent: Array, training_mode: bool) -> Array:
        weights = np.asarray(cotangent, program.dtypes[1], order="C")
        if program is self._product and not self._output_shape:
            weights = weights.reshape(-1)
        return self._answer(program, rows, weights, training_mode=training_mode)

    def _gradient_of_labels(self, rows: Array, label: Array, training_mode: bool) -> Array:
        assert self._product is not None, "class_gradient is None where there is no way back from the outputs"
        chosen = np.zeros((len(rows), self._nb_outputs), self._product.dtypes[1])
        chosen[np.arange(len(rows)), label] = 1
        return self._vjp(self._product, rows, chosen, training_mode)

    def _gradients_by_repeating(self, rows: Array, training_mode: bool) -> Array:
        """Each row once for each class, some classes at a time."""
        n = len(rows)
        result = np.empty((n, self._nb_outputs, *rows.shape[1:]), self._dtype)
        step = 1 if training_mode else max(1, _REPEATED_ROWS // n)
        for first in range(0, self._nb_outputs, step):
            classes = np.arange(first, min(first + step, self._nb_outputs))
            repeated = rows if len(classes) == 1 else np.repeat(rows, len(classes), axis=0)
            gradient = self._gradient_of_labels(repeated, np.tile(classes, n), training_mode)
            result[:, classes] = gradient.reshape(n, len(classes), *rows.shape[1:])
        return result

    def _gradients_built_by_class(self, rows: Array, training_mode: bool) -> Array:
        """One run of one forward and a backward for each class; the graph gets them when they are first asked for."""
        if self._class_gradients is None:
            with self._network.building():
                columns = [self._network.output[:, k] for k in range(self._nb_outputs)]
            self._class_gradients = self._network.program([self._network.gradient(c) for c in columns], [self._network.input])
        result = np.empty((len(rows), self._nb_outputs, *rows.shape[1:]), self._dtype)
        for k, gradient in enumerate(self._network.run(self._class_gradients, rows, training_mode=training_mode)):
            result[:, k] = gradient
        return result

    def _probe(self) -> Array | None:
        """Rows to try the graph with, enough for every class where classes are few. None if sizes are free, and 8 is refused."""
        n = min(max(self._config.nb_classes, 3), _MAX_PROBE_ROWS)
        shape = (n, *(_FREE_SIZE if size == -1 else size for size in self._config.input_shape))
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
        """Of one row, as the graph or a try tells: ``(C,)``, or ``()`` for a model with one output and no axis for it."""
        shape = self._network.output.shape
        if shape.rank is not None and None not in shape.as_list()[1:]:
            return tuple(shape.as_list()[1:])
        if probe is None:
            return (self._config.nb_classes,)
        tried: Array = self._network.run(self._predict, self._rows(probe[:1]), training_mode=False)[0]
        return tried.shape[1:]

    def _if_it_runs(self, program: Program | None, probe: Array | None, weights: Array) -> Program | None:
        """A gradient's program, or None: TensorFlow makes some, of functions of TensorFlow 2, that fail when they are run."""
        if program is None or probe is None:
            return program
        try:
            self._network.run(program, self._rows(probe[:1]), weights.astype(program.dtypes[1]), training_mode=False)
        except tf.errors.OpError:
            return None
        return program

    def _build_loss(self, probe: Array | None) -> None:
        self._row_losses: Program | None = None
        self._losses_of_outputs: Program | None = None
        self._loss_gradient: Program | None = None
        if self._loss is None or self._form is None:
            return
        network, row_loss = self._network, self._loss
        self._row_losses = network.program([row_loss.rows], [network.input, network.labels])
        if network.of_output(row_loss.rows):
            self._losses_of_outputs = network.program([row_loss.rows], [network.output, network.labels])
        if row_loss.gradient is not None:
            gradient = network.program([row_loss.gradient], [network.input, network.labels])
            self._loss_gradient = self._if_it_runs(gradient, probe, self._form.samples(1))

    def _build_step(self) -> Program | None:
        if self._network.train is None:
            return None
        loss = [] if self._loss is None else [self._loss.reduced]
        return self._network.program(loss, [self._network.input, self._network.labels], targets=[self._network.train])

    def _not_there(self) -> list[str]:
        operations = []
        if self._loss is None:
            operations += ["loss", "loss_divisor"]
        if self._losses_of_outputs is None:
            operations += ["loss_from_predictions"]
        if self._loss_gradient is None:
            operations += ["loss_gradient"]
        if self._product is None:
            operations += ["class_gradient", "vjp"]
        if self._step is None:
            operations += ["train_step"]
        if self._config.factory is None and not files.can_start_anew(self._network.session):
            operations += ["fresh"]
        return operations

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
        assert config.factory is not None, "one of the three is there"
        made = config.factory.build("factory")
        if not isinstance(made, Graph):
            raise ModelConfigError(
                "factory",
                f"{config.factory.path!r} returned {type(made).__name__}; expected a gradwire.backends.tensorflow_v1.Graph",
            )
        return made
    return Graph(**{**vars(graph), "feed_dict": config.feed_dict, "training_feed_dict": config.training_feed_dict})


def _input_dtype(network: Network, config: Config) -> np.dtype[Any]:
    """float64 or an integer type where the graph takes that; float32 otherwise, which is cast for a graph of half precision."""
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


def _output_kind(network: Network, config: Config) -> OutputKind:
    if config.task == "regression":
        return "values"
    return "probabilities" if network.output.op.type in ("Softmax", "Sigmoid") else "logits"


def _device(network: Network, config: Config) -> str:
    if config.factory is None:
        return config.device
    has_gpu = any(device.device_type == "GPU" for device in network.session.list_devices())
    return "gpu" if has_gpu else "cpu"


def _columns(outputs: Array) -> Array:
    return outputs[:, None] if outputs.ndim == 1 else outputs
