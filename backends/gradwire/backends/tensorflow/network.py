"""The operations of TensorFlow and Keras models: what is the same in both.

Each operation is one graph, compiled for any number of rows at its first call. Gradients are of the inputs alone, except
in a training step, and no call but that one changes the model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from gradwire.backends import weights_file
from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.config import ModelConfig
from gradwire.backends.errors import InvalidLabel, InvalidLayer, InvalidShape, ModelFailed, Unsupported
from gradwire.backends.tensorflow import gradients, layers, losses, weights
from gradwire.backends.tensorflow.device import Device, ErrorsNamed, tf
from gradwire.backends.tensorflow.programs import Graphs
from gradwire.backends.tensorflow.training import OptimizerStep, OwnersStep

_Make: TypeAlias = Callable[[], tuple[Callable[..., Any], Sequence[Any]]]
"""Makes a function, and the specs of its arguments; called once for each graph."""


@dataclass(frozen=True)
class Network:
    """A model as its backend understands it.

    Attributes:
        owner: The owner's object, in which layers and variables are found.
        forward: ``(inputs, training)`` to outputs ``(n, ...)``.
        input_dtype: Of the inputs that it takes.
        dtype: Of outputs and gradients, float32 or float64.
        variables: The weights by name, trainable or not.
        trainable: Those that training changes.
        others: Variables that calls change besides: the states of random generators.
        for_loss: What the loss takes, from outputs.
        notes: For the card.
    """

    owner: Any
    forward: Callable[[Any, bool], Any]
    input_dtype: np.dtype[Any]
    dtype: np.dtype[Any]
    variables: dict[str, Any]
    trainable: Sequence[Any]
    others: Sequence[Any] = ()
    for_loss: Callable[[Any], Any] = lambda outputs: outputs
    notes: Sequence[str] = ()


class NetworkModel:
    """A network behind the operations of `backend.Model`, `backend.Differentiable` and `backend.Trainable`.

    An operation that is not there is None on the instance: without a loss those of the loss, without a step training, with
    integer inputs all gradients, without layers activations.

    Args:
        config: The model's configuration.
        device: Where the network is.
        network: It belongs to the model from here on.
        loss: The model's loss, if it has one.
        step: Makes what trains it, where there is such a thing.
        output_kind: What its outputs are.
        fresh: Loads the same again, not fitted; None where that cannot be.
    """

    may_wait = False
    fitted = True
    """Weights are there from the start, trained or not."""

    def __init__(
        self,
        config: ModelConfig,
        device: Device,
        network: Network,
        loss: losses.RowLoss | None,
        step: Callable[[Network], OptimizerStep | OwnersStep | None],
        output_kind: OutputKind,
        fresh: Callable[[], NetworkModel] | None,
    ) -> None:
        self._config = config
        self._network = network
        self._loss = loss
        self._fresh = fresh
        self._dtype = network.dtype
        self.input_dtype = network.input_dtype
        self._x_spec = tf.TensorSpec([None, *(None if size == -1 else size for size in config.input_shape)], self.input_dtype)
        self._row: tuple[int | None, ...] = (config.nb_classes,)
        """The shape of a row of outputs, learnt whenever the network is traced or runs."""
        self._graphs = Graphs(device)
        self._cotangent_rows: dict[Hashable, tuple[int | None, ...]] = {}
        self._graphs.make(("predict", False), *self._predicting(False))
        self._network = self._with_what_is_captured(network)
        self._step = step(self._network)
        if isinstance(self._step, OwnersStep):
            self._learn_state_of(self._step)

        self.layer_names = layers.names(network.owner)
        self.loss_name = "" if loss is None else loss.name
        self.loss_reduction: Literal["mean", "sum"] = "mean" if loss is None else loss.reduction
        self.output_kind = output_kind
        self.device = device.name
        for operation in self._not_there():
            setattr(self, operation, None)

    @property
    def notes(self) -> list[str]:
        untraced = sorted({str(key[0]) for key in self._graphs.untraced})  # type: ignore[index]  # keys are tuples here
        said = [f"TensorFlow cannot compile the model: {', '.join(untraced)} run operation by operation"] if untraced else []
        return [*self._network.notes, *said]

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        with self._running(training_mode):
            outputs = self._call(("predict", training_mode), lambda: self._predicting(training_mode), x)
        if len(outputs) != len(x):
            raise ModelFailed(f"the model returned {outputs.shape} for {len(x)} rows; expected one row of outputs each")
        return outputs

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        targets, soft = self._targets(y)

        def function(x: Any, targets: Any) -> Any:
            return self._loss_rows(self._outputs(x, training_mode), targets, soft)

        with self._running(training_mode):
            return self._call(("loss", soft, training_mode), lambda: (function, [self._x_spec, _spec(targets)]), x, targets)

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        targets, soft = self._targets(y)

        def function(outputs: Any, targets: Any) -> Any:
            return self._loss_rows(outputs, targets, soft)

        predictions = np.ascontiguousarray(predictions, self._dtype)
        key = ("loss of predictions", soft)
        with self._running(False):
            return self._call(key, lambda: (function, [_spec(predictions), _spec(targets)]), predictions, targets)

    def loss_divisor(self, y: Array) -> float:
        return self._row_loss.divisor(y)

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        targets, soft = self._targets(y)

        def function(x: Any, targets: Any) -> Any:
            with gradients.watching(x) as tape:
                rows = self._loss_rows(self._outputs(x, training_mode), targets, soft)
            return gradients.of(tape, rows, x)

        key = ("loss_gradient", soft, training_mode)
        with self._running(training_mode):
            return self._call(key, lambda: (function, [self._x_spec, _spec(targets)]), x, targets)

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """As in `backend.Differentiable`. A label is a column of the outputs, so that a model with one output takes only 0."""
        if len(self._row) != 1:
            raise Unsupported(f"the model's outputs have shape {('n', *self._row)}; class gradients are of outputs (n, C)")
        width = self._row[0] or self._config.nb_classes
        if label is None:
            few = gradients.few(len(x), width)
            key = ("class_gradient of all", few, training_mode)

            def every(x: Any) -> Any:
                return gradients.of_every_output(lambda x: self._outputs(x, training_mode), x, few)

            with self._running(training_mode):
                return self._call(key, lambda: (every, [self._x_spec]), x)
        if label.max() >= width:
            raise InvalidLabel(f"label {label.max()} is out of range; the model has {width} output(s), counted from 0")

        def function(x: Any, label: Any) -> Any:
            with gradients.watching(x) as tape:
                chosen = tf.gather(self._outputs(x, training_mode), label, batch_dims=1)
            return tf.expand_dims(gradients.of(tape, chosen, x), 1)

        label = np.ascontiguousarray(label, np.int64)
        with self._running(training_mode):
            return self._call(("class_gradient", training_mode), lambda: (function, [self._x_spec, _spec(label)]), x, label)

    def activations(self, x: Array, layer: str | int, *, training_mode: bool) -> Array:
        name, _ = layers.find(self._network.owner, layer)

        def function(x: Any) -> Any:
            with layers.capturing(self._network.owner, name) as captured:
                self._outputs(x, training_mode)
            output = captured.output()
            return tf.cast(output, self._dtype) if output.dtype.is_floating else tf.identity(output)

        with self._running(training_mode):
            activations = self._call(("get_activations", name, training_mode), lambda: (function, [self._x_spec]), x)
        if activations.shape[:1] != (len(x),):
            raise InvalidLayer(f"layer {name!r} puts out {activations.shape} for {len(x)} rows; expected rows first")
        return activations

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        name = None if layer is None else layers.find(self._network.owner, layer)[0]
        what = "outputs" if name is None else f"layer {name!r}"
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
                # Sizes that the rows decide, or a model that is not compiled.
                outputs = self.predict(x, training_mode=False) if name is None else self.activations(x, name, training_mode=False)
                expected = outputs.shape[1:]
            if cotangent.shape != (len(x), *expected):
                raise InvalidShape(f"cotangent has shape {cotangent.shape}; expected {(len(x), *expected)}, as the {what}")
            return self._array(key, x, np.ascontiguousarray(cotangent, self._dtype))

    def train_step(self, x: Array, y: Array, *, training_mode: bool) -> float | None:
        step = self._step
        assert step is not None, "train_step is None on a model without an optimizer"
        with ErrorsNamed():
            if isinstance(step, OwnersStep):
                targets = self._targets_of_owners_step(y)
                loss = self._call(("train_step", _kind(targets)), lambda: (step, [self._x_spec, _spec(targets)]), x, targets)
                return float(loss) if step.tells else None
            targets, soft = self._targets(y)
            return float(self._optimizer_step(step, x, targets, soft, self._row_loss.divisor(y), training_mode))

    def snapshot(self) -> _Snapshot:
        return _Snapshot(weights.values(self._everything))

    def rollback(self, snapshot: _Snapshot) -> None:
        weights.put_back(self._everything, snapshot.values)

    def save(self, path: Path) -> None:
        weights.save(self._network.variables, path)

    def restore(self, path: Path) -> None:
        """As in `backend.Trainable`. The optimizer starts anew: its state belongs to other weights."""
        weights.put(self._network.variables, weights_file.read(path), path)
        if self._step is not None:
            self._step.reset()

    def fresh(self) -> NetworkModel:
        assert self._fresh is not None, "fresh is None on a model that cannot be made anew"
        made = self._fresh()
        ours = {id(variable) for variable in self._network.variables.values()}
        if any(id(variable) in ours for variable in made._network.variables.values()):
            raise Unsupported(
                "the model's factory returns the same model or variables again; a clone needs a factory that makes new ones"
            )
        return made

    # Inside.

    @property
    def _row_loss(self) -> losses.RowLoss:
        assert self._loss is not None, "operations of the loss are None on a model without one"
        return self._loss

    @property
    def _everything(self) -> list[Any]:
        """All that a step may change."""
        step = [] if self._step is None else self._step.state
        return [*self._network.variables.values(), *self._network.others, *step]

    def _targets(self, y: Array) -> tuple[Array, bool]:
        return self._row_loss.targets(y, self._row), self._row_loss.soft(y)

    def _targets_of_owners_step(self, y: Array) -> Array:
        regression = self._config.task == "regression"
        return losses.rows_of(y, self._row, regression, self._dtype) if self._loss is None else self._loss.targets(y, self._row)

    def _outputs(self, x: Any, training_mode: bool) -> Any:
        """Outputs ``(n, C)``, as `dtype`."""
        outputs = outputs_of(self._network.forward(x, training_mode))
        self._row = tuple(outputs.shape[1:])
        # The same tensor where the dtype is right: Keras knows the logits of its own softmax by the tensor.
        return tf.cast(outputs, self._dtype)

    def _predicting(self, training_mode: bool) -> tuple[Callable[..., Any], Sequence[Any]]:
        return lambda x: tf.identity(self._outputs(x, training_mode)), [self._x_spec]

    def _loss_rows(self, outputs: Any, targets: Any, soft: bool) -> Any:
        return self._row_loss.rows(targets, self._network.for_loss(outputs), soft)

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
        """What every operation runs in; next to nothing in the usual case, of which an attack makes thousands."""
        return self._in_training_mode() if training_mode else ErrorsNamed()

    @contextmanager
    def _in_training_mode(self) -> Iterator[None]:
        """Layers behave as in training, but nothing stays: running statistics are put back."""
        statistics = [variable for variable in self._network.variables.values() if not variable.trainable]
        before = weights.values(statistics)
        try:
            with ErrorsNamed():
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

        specs = [self._x_spec, _spec(targets), tf.TensorSpec([], self._dtype)]
        key = ("train_step", soft, training_mode)
        return self._call(key, lambda: (function, specs), x, targets, np.asarray(divisor, self._dtype))

    def _with_what_is_captured(self, network: Network) -> Network:
        """The network with variables that are in none of its attributes: in a function's closure, or a SavedModel's graph."""
        known = {id(variable) for variable in (*network.variables.values(), *network.others)}
        found = [v for v in self._graphs.variables(("predict", False)) if id(v) not in known]
        captured = {f"captured.{i}.{v.name.removesuffix(':0')}": v for i, v in enumerate(found)}
        trainable = [*network.trainable, *(v for v in found if v.trainable)]
        return replace(network, variables={**network.variables, **captured}, trainable=trainable)

    def _learn_state_of(self, step: OwnersStep) -> None:
        """Compiles the owner's step, which makes what its optimizer keeps, before a fit can be taken back to now."""
        known = [size or 1 for size in self._row]
        y = np.zeros((1, *known), self._dtype) if self._config.task == "regression" else np.zeros(1, np.int64)
        targets = self._targets_of_owners_step(y)
        key = ("train_step", _kind(targets))
        self._graphs.make(key, step, [self._x_spec, _spec(targets)])
        ours = {id(variable) for variable in (*self._network.variables.values(), *self._network.others)}
        step.learn([variable for variable in self._graphs.variables(key) if id(variable) not in ours])

    def _not_there(self) -> list[str]:
        operations = []
        if self._loss is None:
            operations += ["loss", "loss_from_predictions", "loss_divisor", "loss_gradient"]
        if self.input_dtype.kind != "f":
            operations += ["loss_gradient", "class_gradient", "vjp"]
        if not self.layer_names:
            operations += ["activations"]
        if self._step is None:
            operations += ["train_step"]
        if self._fresh is None:
            operations += ["fresh"]
        return operations


class _Snapshot(NamedTuple):
    values: list[Array]


def outputs_of(result: Any) -> Any:
    """The outputs ``(n, ...)`` in what a model returned: itself, or the last of several."""
    if isinstance(result, (tuple, list)) and result:
        result = result[-1]
    if not tf.is_tensor(result):
        raise ModelFailed(
            f"the model returned {type(result).__name__}; expected a tensor, or a tuple whose last element is the outputs"
        )
    if result.shape.rank == 0:
        raise ModelFailed("the model returned a scalar; expected one row of outputs each")
    return tf.expand_dims(result, 1) if result.shape.rank == 1 else result


def _spec(targets: Array) -> Any:
    return tf.TensorSpec([None, *targets.shape[1:]], targets.dtype)


def _kind(targets: Array) -> tuple[str, int]:
    return targets.dtype.kind, targets.ndim
