"""MXNet: Gluon blocks, and graphs that were exported.

Invariant: MXNet computes asynchronously, and an operation reads its result before it returns, so that a call raises its own
errors. Modes belong to a call and a thread, not to the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from gradwire.backends import jacobians, operations
from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.errors import ModelConfigError
from gradwire.backends.example_rows import known_sizes
from gradwire.backends.mxnet import files, gradients, losses, training, weights
from gradwire.backends.mxnet.arrays import array, tensor
from gradwire.backends.mxnet.config import Config
from gradwire.backends.mxnet.device import FrameworkErrors, find_device, mx
from gradwire.backends.mxnet.network import network

__all__ = ["Config", "MXNetModel", "load"]

# Gradients of all classes: repeating the rows costs one big backward but C forwards, looping over the classes one forward
# but C small backwards. CNN of two convolutions, 1x28x28, 10 classes, one thread, fastest of many, repeat / loop in ms:
# 1 row 3.7/4.8, 2 rows 6.7/7.0, 3 rows 9.9/9.1, 4 rows 12.9/11.4, 32 rows 116/69.
_REPEAT_MAX_ROWS = 2
# Bounds the memory of repeating.
_REPEATED_ROWS = 64


def load(config: Config) -> MXNetModel:
    """Makes the model that a configuration describes. Raises ModelConfigError."""
    gradients.check()
    block = _block(config, config.weights is not None)
    if config.symbol is None and config.weights is not None:
        weights.put(block, weights.read(config.weights), config.weights)
    return MXNetModel(config, block)


class MXNetModel:
    """A Gluon block behind the operations of `backend.Model`, `backend.Differentiable` and `backend.Trainable`.

    An operation that the configuration does not allow is None on the instance: without a loss those of the loss, without
    an optimizer training, with integer inputs all gradients.

    Args:
        config: The model's configuration.
        block: With all of its weights, on the device; belongs to the model from here on.
    """

    may_wait = False
    fitted = True
    """True from the start: weights exist, trained or not."""

    def __init__(self, config: Config, block: Any) -> None:
        self._config = config
        self._device = find_device(config.device)
        self._block = block
        parameters = list(block.collect_params().values())
        # Parameters that the owner froze stay frozen in a fit.
        self._trainable = [p for p in parameters if p.grad_req != "null"]
        # Running statistics, which a backward in training mode writes.
        self._statistics = [p for p in parameters if p.grad_req == "null"]
        self._nb_outputs: int | None = None

        # numpy has no bfloat16, and callers are better off with float32 than with float16: half models are cast on the device.
        self._block_dtype = _dtype(parameters)
        self._dtype = np.dtype(np.float64 if self._block_dtype == np.float64 else np.float32)
        self.input_dtype: np.dtype[Any] = self._dtype if config.input_dtype is None else np.dtype(config.input_dtype)
        self._network, self.notes = network(block, _example(config, self._block_dtype, self._device), config.hybridize)
        if self._network.recurrent:
            # The weights of frozen layers need gradients too: see `gradients.gradient`.
            for parameter in self._statistics:
                if parameter._differentiable:
                    parameter.grad_req = "write"

        loss = None if config.loss is None else losses.build(config.loss)
        self._loss = None if loss is None else losses.RowLoss(loss, config.task == "regression", self._dtype, self._device)
        self._trainer = self._new_trainer()

        self.layer_names = self._network.layer_names
        self.loss_name = "" if self._loss is None else self._loss.name
        self.loss_reduction: Literal["mean", "sum"] = "mean" if self._loss is None else self._loss.reduction
        self.output_kind: OutputKind = operations.output_kind(config, self._network.ends_in_probabilities, self._loss)
        self.device = config.device
        if self._block_dtype == np.float16:
            self.notes.append("computes in float16; inputs and answers are float32")
        operations.withdraw(self, self._missing_operations())

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Outputs ``(n, C)``; see `backend.Model`."""
        with self._running(training_mode), gradients.running(training_mode):
            return array(self._outputs(self._tensor(x), training_mode), self._dtype)

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The loss of each row; see `backend.Differentiable`."""
        with self._running(training_mode), gradients.running(training_mode):
            return array(self._loss_rows(self._outputs(self._tensor(x), training_mode), y), self._dtype)

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """The loss of each row of outputs; see `backend.Differentiable`."""
        with self._running(False), gradients.running(False):
            return array(self._loss_rows(tensor(predictions, self._dtype, self._device), y), self._dtype)

    def loss_divisor(self, y: Array) -> float:
        """The divisor of a mean over the rows; see `backend.Differentiable`."""
        return self._row_loss.divisor(y)

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The gradient of the summed loss; see `backend.Differentiable`."""
        with self._running(training_mode):
            leaf = self._leaf(x)
            with gradients.recording(training_mode):
                rows = self._loss_rows(self._outputs(leaf, training_mode), y)
            return self._gradient(rows, leaf, mx.nd.ones_like(rows), training_mode)

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """Gradients of class outputs; see `backend.Differentiable`.

        A label is a column of the outputs, so that a model with one output takes only 0.
        """
        with self._running(training_mode):
            if label is not None:
                return self._gradient_of_labels(x, label, training_mode).reshape(len(x), 1, *x.shape[1:])
            # In training mode batch normalisation mixes rows, and each repetition would draw a dropout of its own.
            if len(x) <= _REPEAT_MAX_ROWS and self._nb_outputs is not None and not training_mode:
                return self._gradients_by_repeating(x, self._nb_outputs)
            return self._gradients_by_looping(x, training_mode)

    def activations(self, x: Array, layer: str | int, *, training_mode: bool) -> Array:
        """The output of a layer; see `backend.Differentiable`."""
        with self._running(training_mode), gradients.running(training_mode):
            return array(self._network.layer(self._inputs(self._tensor(x)), layer, training_mode=training_mode), self._dtype)

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        """The cotangent times the Jacobian; see `backend.Differentiable`."""
        with self._running(training_mode):
            leaf = self._leaf(x)
            with gradients.recording(training_mode):
                if layer is None:
                    differentiated = self._outputs(leaf, training_mode)
                else:
                    differentiated = self._network.layer(self._inputs(leaf), layer, training_mode=training_mode)
            jacobians.check_cotangent(cotangent, differentiated.shape, layer)
            weighting = tensor(cotangent, np.dtype(differentiated.dtype), self._device)
            return self._gradient(differentiated, leaf, weighting, training_mode, layer)

    def train_step(self, x: Array, y: Array, *, training_mode: bool) -> float | None:
        """One step of the trainer; see `backend.Trainable`."""
        trainer = self._trainer
        assert trainer is not None, "train_step is None on a model without an optimizer"
        with FrameworkErrors():
            for parameter in self._trainable:
                if parameter.grad_req == "add":
                    parameter.zero_grad()
            with gradients.recording(training_mode):
                rows = self._loss_rows(self._outputs(self._tensor(x), training_mode), y)
            gradients.autograd.backward([rows], train_mode=training_mode)
            losses, divisor = array(rows, self._dtype), self._row_loss.divisor(y)
            # Reading the gradients raises the errors of the backward before the weights change.
            for parameter in self._trainable:
                parameter.grad().wait_to_read()
            trainer.step(divisor, ignore_stale_grad=True)
            for parameter in self._trainable:
                parameter.data().wait_to_read()
            return self._row_loss.reduced(losses, divisor)

    def snapshot(self) -> _Snapshot:
        """Copies everything that a fit can change."""
        return _Snapshot(weights.copies(self._block), None if self._trainer is None else training.state(self._trainer))

    def rollback(self, snapshot: _Snapshot) -> None:
        """Restores a snapshot."""
        weights.put_back(self._block, snapshot.weights)
        if snapshot.trainer is not None:
            self._trainer = training.restored(snapshot.trainer, self._trainable)

    def save(self, path: Path) -> None:
        """Writes the weights to a file."""
        weights.save(self._block, path)

    def restore(self, path: Path) -> None:
        """Reads the weights from a file that `save` wrote; the trainer is reset, because its state fits other weights."""
        weights.put(self._block, weights.read_saved(path), path)
        self._trainer = self._new_trainer()

    def untrained_clone(self) -> MXNetModel:
        """A model of the same architecture that has not been fitted. Raises Unsupported if it would share parameters."""
        block = _block(self._config, True)
        if self._config.symbol is not None:
            files.initialise(block)
        ours = {id(p) for p in self._block.collect_params().values()}
        operations.check_independent(
            block is self._block or any(id(p) in ours for p in block.collect_params().values()), "block or parameters"
        )
        return MXNetModel(self._config, block)

    # Inside.

    @property
    def _row_loss(self) -> losses.RowLoss:
        assert self._loss is not None, "operations of the loss are None on a model without one"
        return self._loss

    def _loss_rows(self, outputs: Any, y: Array) -> Any:
        """The loss of each row of outputs ``(n, C)``."""
        return self._row_loss.rows(outputs, self._row_loss.targets(y, tuple(outputs.shape[1:])))

    def _tensor(self, x: Array) -> Any:
        return tensor(x, self.input_dtype, self._device)

    def _leaf(self, x: Array) -> Any:
        leaf = self._tensor(x)
        leaf.attach_grad()
        return leaf

    def _inputs(self, x: Any) -> Any:
        """Casts inputs to the block's own dtype."""
        return x if x.dtype == self._block_dtype or self.input_dtype.kind != "f" else x.astype(self._block_dtype)

    def _outputs(self, x: Any, training_mode: bool) -> Any:
        """Outputs ``(n, C)`` in float32 or float64."""
        outputs = self._network.outputs(self._inputs(x), training_mode=training_mode)
        self._nb_outputs = outputs.shape[1]
        return outputs if outputs.dtype == self._dtype else outputs.astype(self._dtype)

    def _running(self, training_mode: bool) -> AbstractContextManager[None]:
        """The context that every operation runs in; costs next to nothing in evaluation mode, of which attacks make thousands."""
        return self._keeping_statistics() if training_mode and self._statistics else FrameworkErrors()

    @contextmanager
    def _keeping_statistics(self) -> Iterator[None]:
        """Restores running statistics after the block, in which layers are in training mode."""
        kept = [parameter.data().copy() for parameter in self._statistics]
        try:
            with FrameworkErrors():
                yield
        finally:
            for parameter, before in zip(self._statistics, kept, strict=True):
                parameter.set_data(before)

    def _gradient(
        self, of: Any, leaf: Any, cotangent: Any, training_mode: bool, layer: str | int | None = None, keep: bool = False
    ) -> Array:
        network = self._network
        network.check_gradient(layer)
        found = gradients.gradient(
            of, leaf, cotangent, training_mode=training_mode, all_weights=network.recurrent, keep=keep or not network.known
        )
        gradient = array(found, self._dtype)
        if not network.known and not gradient.any():
            gradients.check_recorded(of, leaf)
        return gradient

    def _gradient_of_labels(self, x: Array, label: Array, training_mode: bool) -> Array:
        leaf = self._leaf(x)
        with gradients.recording(training_mode):
            outputs = _columns(self._outputs(leaf, training_mode))
        jacobians.check_label(label, outputs.shape[1])
        chosen = np.zeros(outputs.shape, self._dtype)
        chosen[np.arange(len(x)), label] = 1
        return self._gradient(outputs, leaf, tensor(chosen, self._dtype, self._device), training_mode)

    def _gradients_by_repeating(self, x: Array, nb_outputs: int) -> Array:
        """Repeats each row for each class, with one backward for all of them."""
        return jacobians.by_repeating(
            lambda rows, label: self._gradient_of_labels(rows, label, False), x, nb_outputs, self._dtype, _REPEATED_ROWS // len(x)
        )

    def _gradients_by_looping(self, x: Array, training_mode: bool) -> Array:
        """Runs one forward, and one backward for each class."""
        leaf = self._leaf(x)
        with gradients.recording(training_mode):
            outputs = _columns(self._outputs(leaf, training_mode))
        n, nb_outputs = outputs.shape
        result = np.empty((n, nb_outputs, *x.shape[1:]), self._dtype)
        for k in range(nb_outputs):
            one = np.zeros(outputs.shape, self._dtype)
            one[:, k] = 1
            cotangent = tensor(one, self._dtype, self._device)
            result[:, k] = self._gradient(outputs, leaf, cotangent, training_mode, keep=k < nb_outputs - 1)
        return result

    def _new_trainer(self) -> Any:
        return None if self._config.optimizer is None else training.build(self._config.optimizer, self._trainable)

    def _missing_operations(self) -> list[str]:
        missing: list[str] = []
        if self._loss is None:
            missing += operations.OF_LOSS
        if self._config.input_dtype is not None:
            missing += operations.OF_GRADIENTS
        if self._trainer is None:
            missing += ["train_step"]
        return missing


class _Snapshot(NamedTuple):
    weights: weights.Copies
    trainer: training.State | None


def _block(config: Config, may_be_empty: bool) -> Any:
    """Makes the owner's block with weights of known shapes on the device, trained or not. Raises ModelConfigError."""
    device = find_device(config.device)
    if config.symbol is not None:
        assert config.weights is not None, "a symbol comes with its weights"
        return files.exported(config.symbol, config.weights, device)
    assert config.factory is not None, "one of symbol and factory is set"
    block = config.factory.build("factory")
    if not isinstance(block, mx.gluon.Block):
        raise ModelConfigError("factory", f"{config.factory.path!r} returned {type(block).__name__}; expected a mxnet.gluon.Block")
    parameters = block.collect_params()
    if config.device == "cpu" and _dtype(list(parameters.values())) == np.float16:
        raise ModelConfigError("factory", f"{config.factory.path!r} returned a block in float16, which MXNet runs on GPUs alone")
    if any(p._data is None and not p._deferred_init for p in parameters.values()):
        if not may_be_empty:
            raise ModelConfigError(
                "factory",
                f"{config.factory.path!r} returned a block without weights; call its initialize(), or name a weights file",
            )
        block.initialize(ctx=device)
    if any(p.list_ctx() != [device] for p in parameters.values()):
        parameters.reset_ctx(device)
    if any(p._data is None for p in parameters.values()):
        _learn_shapes(config, block, device)
    return block


def _learn_shapes(config: Config, block: Any, device: Any) -> None:
    """Lets Gluon make the weights of layers, which it does when they first see a row."""
    example = _example(config, _dtype(list(block.collect_params().values())), device)
    try:
        with gradients.running(False):
            block(example)
    except Exception as e:
        raise ModelConfigError("input_shape", f"the block does not take one row of shape {list(example.shape[1:])}: {e}") from e


def _example(config: Config, dtype: np.dtype[Any], device: Any) -> Any:
    shape = known_sizes(config.input_shape)
    if config.input_dtype is not None:
        return mx.nd.zeros((1, *shape), device, config.input_dtype)
    return tensor(np.random.default_rng(0).uniform(size=(1, *shape)), dtype, device)


def _dtype(parameters: list[Any]) -> np.dtype[Any]:
    """The dtype of the first floating weights."""
    return next((np.dtype(p.dtype) for p in parameters if np.dtype(p.dtype).kind == "f"), np.dtype(np.float32))


def _columns(outputs: Any) -> Any:
    jacobians.check_columns(outputs.shape)
    return outputs
