"""PyTorch modules.

Parameters are frozen and layers in evaluation mode except inside a call that needs it otherwise: autograd then computes
the gradient of the inputs alone, and no call but a training step changes the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from gradwire.backends import torch_layers as layers
from gradwire.backends import torch_layouts as layouts
from gradwire.backends import torch_losses as losses
from gradwire.backends import torch_weights as weights
from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import InvalidLabel, InvalidShape, ModelConfigError, OutOfMemory, Unsupported
from gradwire.backends.torch_arrays import array, tensor, view

# Gradients of all classes: repeating the rows costs one big backward but C forwards, looping over the classes one forward
# but C small backwards. CNN of two convolutions, 1x28x28, 10 classes, one thread, fastest of many, repeat / loop in ms:
# 1 row 5.3/9.7, 2 rows 6.7/8.7, 3 rows 9.9/9.9, 4 rows 11.0/11.2, 8 rows 23/16, 32 rows 82/47, 128 rows 465/175.
_REPEAT_MAX_ROWS = 2
# Bounds the memory of repeating. 1 row, 256 classes, in ms: at once 58, 64 rows at a time 64, 16 at a time 78; loop 161.
_REPEATED_ROWS = 64


class Config(ModelConfig):
    """Keys of a torch model."""

    factory: ObjectRef
    """The owner's code; called without positional arguments, returns a ``torch.nn.Module``."""
    loss: ObjectRef | None = None
    """A loss class with its arguments, e.g. ``torch.nn.CrossEntropyLoss``; without it there are no losses."""
    optimizer: ObjectRef | None = None
    """Called with the parameters; without it there is no fit."""
    amp: bool = False
    """Runs the model under ``torch.autocast``: bfloat16 on a CPU, float16 on a GPU."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """How images lie in memory; ``auto`` measures at loading which is faster. The answers differ in their last digits."""
    input_dtype: Literal["int64"] | None = None
    """For models whose first layer is an embedding; such inputs have no gradients."""
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")

    @model_validator(mode="after")
    def _fit_needs_loss(self) -> Config:
        if self.optimizer is not None and self.loss is None:
            raise ValueError("optimizer is set but loss is not; a model is fitted to a loss")
        return self


def load(config: Config) -> TorchModel:
    """The model that a configuration describes. Raises ModelConfigError."""
    module = _module(config)
    if config.weights is not None:
        weights.put(module, weights.read(config.weights, config.trust_pickle), config.weights)
    return TorchModel(config, module)


class TorchModel:
    """A torch module behind the operations of `backend.Model`, `backend.Differentiable` and `backend.Trainable`.

    An operation that the configuration does not allow is None on the instance: without a loss those of the loss, without
    an optimizer training, with integer inputs all gradients.

    Args:
        config: The model's configuration.
        module: What its factory made, on any device; it belongs to the model from here on.
    """

    may_wait = False
    fitted = True
    """Weights are there from the start, trained or not."""

    def __init__(self, config: Config, module: nn.Module) -> None:
        device = _device(config.device)
        self._config = config
        self._device = device
        self._module = module.to(device).eval()
        parameters = list(module.parameters())
        # What the owner froze stays frozen in a fit.
        self._trainable = [p for p in parameters if p.requires_grad]
        module.requires_grad_(False)
        self._recurrent = layers.recurrent(module) if device.type == "cuda" else []
        self._nb_outputs: int | None = None

        self._module_dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)
        # numpy has no bfloat16, and callers are better off with float32 than with float16: half models are cast on the device.
        self._dtype = np.dtype(np.float64 if self._module_dtype == torch.float64 else np.float32)
        self.input_dtype: np.dtype[Any] = self._dtype if config.input_dtype is None else np.dtype(config.input_dtype)

        loss = None if config.loss is None else losses.build(config.loss)
        self._loss = None if loss is None else losses.RowLoss(loss, config.task == "regression", self._dtype, device)
        self._optimizer = self._new_optimizer()
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.amp and device.type == "cuda")

        self._choose_layout()

        self.layer_names = layers.names(module)
        self.loss_name = "" if self._loss is None else self._loss.name
        self.loss_reduction: Literal["mean", "sum"] = "mean" if self._loss is None else self._loss.reduction
        self.output_kind: OutputKind = config.output or _output_kind(config, module, self._loss)
        self.device = str(device)
        self.notes = self._notes()
        for operation in self._not_there():
            setattr(self, operation, None)

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        # Not inference_mode: a tensor that the owner's code caches there would fail in every later gradient, and it is
        # no faster (1 row of the CNN: 0.57 ms, with no_grad 0.58).
        with self._running(training_mode), torch.no_grad():
            # A clone, because a module may return one of its own tensors.
            return array(self._outputs(self._tensor(x)).clone(), self._dtype)

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        with self._running(training_mode), torch.no_grad():
            return array(self._row_loss.rows(self._outputs(self._tensor(x)), y), self._dtype)

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        with self._running(False), torch.no_grad():
            return array(self._row_loss.rows(tensor(predictions, self._dtype, self._device), y), self._dtype)

    def loss_divisor(self, y: Array) -> float:
        return self._row_loss.divisor(y)

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        with self._running(training_mode):
            leaf = self._tensor(x).requires_grad_()
            rows = self._row_loss.rows(self._outputs(leaf), y)
            return array(_gradient(rows, leaf, torch.ones_like(rows)), self._dtype)

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """As in `backend.Differentiable`. A label is a column of the outputs, so that a model with one output takes only 0."""
        with self._running(training_mode):
            leaf = self._tensor(x).requires_grad_()
            if label is not None:
                return array(self._gradient_of_labels(leaf, label), self._dtype).reshape(len(x), 1, *x.shape[1:])
            # In training mode rows see each other through batch normalisation, and each repetition its own dropout.
            if len(x) <= _REPEAT_MAX_ROWS and self._nb_outputs is not None and not training_mode:
                return self._gradients_by_repeating(leaf, self._nb_outputs)
            return self._gradients_by_looping(leaf)

    def activations(self, x: Array, layer: str | int, *, training_mode: bool) -> Array:
        with self._running(training_mode), torch.no_grad():
            with layers.capturing(self._module, layer) as captured:
                self._outputs(self._tensor(x))
            return array(captured.output(len(x)), self._dtype)

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        with self._running(training_mode):
            leaf = self._tensor(x).requires_grad_()
            if layer is None:
                differentiated, what = self._outputs(leaf), "outputs"
            else:
                with layers.capturing(self._module, layer) as captured:
                    self._outputs(leaf)
                differentiated, what = captured.output(len(x)), f"layer {layer!r}"
            if cotangent.shape != tuple(differentiated.shape):
                raise InvalidShape(f"cotangent has shape {cotangent.shape}; expected {tuple(differentiated.shape)}, as the {what}")
            weighting = tensor(cotangent, self._dtype, self._device).to(differentiated.dtype)
            return array(_gradient(differentiated, leaf, weighting), self._dtype)

    def train_step(self, x: Array, y: Array, *, training_mode: bool) -> float | None:
        optimizer = self._optimizer
        assert optimizer is not None, "train_step is None on a model without an optimizer"
        for parameter in self._trainable:
            parameter.requires_grad_(True)
        self._module.train(training_mode)
        try:
            with OutOfMemoryNamed(), layers.differentiable(self._recurrent):
                loss = self._row_loss.reduced(self._outputs(self._tensor(x)), y)
                torch.autograd.backward(self._scaler.scale(loss))
                self._scaler.step(optimizer)
                self._scaler.update()
            return float(loss.item())
        finally:
            optimizer.zero_grad(set_to_none=True)
            self._module.eval()
            for parameter in self._trainable:
                parameter.requires_grad_(False)

    def snapshot(self) -> _Snapshot:
        state = None if self._optimizer is None else copy.deepcopy(self._optimizer.state_dict())
        return _Snapshot(weights.clones(self._module), state, self._scaler.state_dict())

    def rollback(self, snapshot: _Snapshot) -> None:
        weights.put_back(self._module, snapshot.weights)
        if self._optimizer is not None and snapshot.optimizer is not None:
            # The optimizer takes the tensors it is given for its own and works in them.
            self._optimizer.load_state_dict(copy.deepcopy(snapshot.optimizer))
        self._scaler.load_state_dict(snapshot.scaler)

    def save(self, path: Path) -> None:
        weights.save(self._module, path)

    def restore(self, path: Path) -> None:
        """As in `backend.Trainable`. The optimizer starts anew: its state belongs to other weights."""
        weights.put(self._module, weights.read_saved(path), path)
        self._optimizer = self._new_optimizer()

    def fresh(self) -> TorchModel:
        module = _module(self._config)
        ours = {id(p) for p in self._module.parameters()}
        if module is self._module or any(id(p) in ours for p in module.parameters()):
            raise Unsupported(
                "the model's factory returns the same module or parameters again; a clone needs a factory that makes new ones"
            )
        # The same layout, not the faster one of another day.
        return TorchModel(self._config.model_copy(update={"memory_format": self._layout_name}), module)

    # Inside.

    @property
    def _row_loss(self) -> losses.RowLoss:
        assert self._loss is not None, "operations of the loss are None on a model without one"
        return self._loss

    def _tensor(self, x: Array) -> torch.Tensor:
        # Floating inputs are copied on their way into the module.
        put = view if self.input_dtype.kind == "f" else tensor
        return put(x, self.input_dtype, self._device)

    def _outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs ``(n, C)``, in the module's own dtype, of inputs in `input_dtype`."""
        if inputs.is_floating_point():
            # A copy also where the dtype is right: the module's first step may work in place, which autograd refuses on a
            # leaf, and which would write into the caller's rows.
            inputs = inputs.to(self._module_dtype, copy=True, memory_format=self._memory_format)
        if self._config.amp:
            with self._autocast():
                result = self._module(inputs)
        else:
            result = self._module(inputs)
        outputs = layers.outputs(result, len(inputs))
        self._nb_outputs = outputs.shape[1]
        return outputs

    @property
    def _layout_name(self) -> str:
        return next(name for name, memory_format in layouts.MEMORY_FORMATS.items() if memory_format is self._memory_format)

    def _choose_layout(self) -> None:
        chosen = layouts.MEMORY_FORMATS.get(self._config.memory_format)
        if chosen is None and self._config.input_dtype is None and layouts.applies(self._module, self._config.input_shape):
            chosen = layouts.fastest(self, self._config.input_shape, self.input_dtype)
        self.lay_out(chosen or torch.contiguous_format)

    def lay_out(self, memory_format: torch.memory_format) -> None:
        """Lays images out anew in memory, parameters and all later inputs."""
        self._memory_format = memory_format
        self._module.to(memory_format=memory_format)  # type: ignore[call-overload]

    def gradient_of_sum(self, x: Array) -> None:
        """A gradient for its cost alone; see `torch_layouts.fastest`."""
        leaf = self._tensor(x).requires_grad_()
        array(_gradient(self._outputs(leaf).sum(), leaf, None), self._dtype)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.float16 if self._device.type == "cuda" else torch.bfloat16)

    def _running(self, training_mode: bool) -> AbstractContextManager[None]:
        """What every operation runs in; next to nothing in the usual case, of which an attack makes thousands."""
        return self._in_mode(training_mode) if training_mode or self._recurrent else OutOfMemoryNamed()

    @contextmanager
    def _in_mode(self, training_mode: bool) -> Iterator[None]:
        mode = layers.training(self._module) if training_mode else nullcontext()
        with OutOfMemoryNamed(), mode, layers.differentiable(self._recurrent):
            yield

    def _gradient_of_labels(self, leaf: torch.Tensor, label: Array) -> torch.Tensor:
        outputs = _columns(self._outputs(leaf))
        if label.max() >= outputs.shape[1]:
            raise InvalidLabel(f"label {label.max()} is out of range; the model has {outputs.shape[1]} output(s), counted from 0")
        chosen = outputs.gather(1, tensor(label[:, None], np.dtype(np.int64), self._device))
        return _gradient(chosen, leaf, torch.ones_like(chosen))

    def _gradients_by_repeating(self, leaf: torch.Tensor, nb_outputs: int) -> Array:
        """Each row once for each class: one backward for all of them."""
        n, row = leaf.shape[0], leaf.shape[1:]
        result = np.empty((n, nb_outputs, *row), self._dtype)
        step = _REPEATED_ROWS // n
        for first in range(0, nb_outputs, step):
            classes = np.arange(first, min(first + step, nb_outputs))
            repeated = leaf.detach().repeat_interleave(len(classes), 0).requires_grad_()
            gradient = self._gradient_of_labels(repeated, np.tile(classes, n))
            result[:, classes] = array(gradient, self._dtype).reshape(n, len(classes), *row)
        return result

    def _gradients_by_looping(self, leaf: torch.Tensor) -> Array:
        """One forward, and one backward for each class."""
        outputs = _columns(self._outputs(leaf))
        n, nb_outputs = outputs.shape
        result = np.empty((n, nb_outputs, *leaf.shape[1:]), self._dtype)
        for k in range(nb_outputs):
            one = torch.zeros_like(outputs)
            one[:, k] = 1
            result[:, k] = array(_gradient(outputs, leaf, one, retain_graph=k < nb_outputs - 1), self._dtype)
        return result

    def _new_optimizer(self) -> torch.optim.Optimizer | None:
        if self._config.optimizer is None:
            return None
        optimizer = self._config.optimizer.build("optimizer", list(self._module.parameters()))
        path = self._config.optimizer.path
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ModelConfigError("optimizer", f"{path!r} returned {type(optimizer).__name__}; expected a torch.optim.Optimizer")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ModelConfigError("optimizer", f"{path!r} evaluates a batch several times a step; expected one that does it once")
        return optimizer

    def _not_there(self) -> list[str]:
        operations = []
        if self._loss is None:
            operations += ["loss", "loss_from_predictions", "loss_divisor", "loss_gradient"]
        if self._config.input_dtype is not None:
            operations += ["loss_gradient", "class_gradient", "vjp"]
        if self._optimizer is None:
            operations += ["train_step"]
        return operations

    def _notes(self) -> list[str]:
        notes = []
        if self._config.amp:
            notes.append("runs in mixed precision: outputs and gradients have 2 to 3 significant digits")
        if self._memory_format is torch.channels_last:
            notes.append("images lie channels last in memory: answers differ from torch's default layout in their last digits")
        if self._module_dtype in (torch.float16, torch.bfloat16):
            notes.append(f"computes in {str(self._module_dtype).removeprefix('torch.')}; inputs and answers are float32")
        return notes


class _Snapshot(NamedTuple):
    weights: weights.Clones
    optimizer: dict[str, Any] | None
    scaler: dict[str, Any]


def _module(config: Config) -> nn.Module:
    made = config.factory.build("factory")
    if not isinstance(made, nn.Module):
        raise ModelConfigError("factory", f"{config.factory.path!r} returned {type(made).__name__}; expected a torch.nn.Module")
    return made


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelConfigError("device", f"{name} is not here; torch sees {torch.cuda.device_count()} GPU(s), and cpu")
    return device


def _output_kind(config: Config, module: nn.Module, loss: losses.RowLoss | None) -> OutputKind:
    if config.task == "regression":
        return "values"
    last = list(module.children())[-1:] if isinstance(module, nn.Sequential) else []
    if last and isinstance(last[0], (nn.Softmax, nn.Sigmoid)):
        return "probabilities"
    return "logits" if loss is None or loss.takes_logits else "probabilities"


def _columns(outputs: torch.Tensor) -> torch.Tensor:
    if outputs.ndim != 2:
        raise Unsupported(f"the model's outputs have shape {tuple(outputs.shape)}; class gradients are of outputs (n, C)")
    return outputs


def _gradient(of: torch.Tensor, leaf: torch.Tensor, cotangent: torch.Tensor | None, retain_graph: bool = False) -> torch.Tensor:
    gradient = None
    if of.requires_grad:
        (gradient,) = torch.autograd.grad(of, leaf, cotangent, retain_graph=retain_graph, allow_unused=True)
    if gradient is None:
        # Zeros would pass for a robust model.
        raise Unsupported("autograd finds no way from there to the inputs: something in between is detached, or not differentiable")
    return gradient


class OutOfMemoryNamed(AbstractContextManager[None]):
    """Turns the framework's error for a full device into ours, and gives the device its memory back."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            raise OutOfMemory("the GPU has no memory left for so many rows; send fewer, or set a smaller max_batch_rows") from error
