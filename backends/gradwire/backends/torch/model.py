"""PyTorch modules.

Parameters are frozen and layers in evaluation mode except inside a call that needs it otherwise: autograd then computes
the gradient of the inputs alone, and no call but a training step changes the model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from gradwire.backends.backend import Array, DeviceReading, OutputKind
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import InvalidLabel, InvalidShape, ModelConfigError, OutOfMemory, Unsupported
from gradwire.backends.torch import device as torch_devices
from gradwire.backends.torch import gradients, layers, layouts, losses, weights
from gradwire.backends.torch.arrays import array, tensor, view
from gradwire.backends.torch.cuda_graphs import Graphed
from gradwire.backends.torch.precision import Precision
from gradwire.backends.torch.transfers import Staging


class Config(ModelConfig):
    """Keys of a torch model."""

    factory: ObjectRef
    """The owner's code; called without positional arguments, returns a ``torch.nn.Module``."""
    loss: ObjectRef | None = None
    """A loss class with its arguments, e.g. ``torch.nn.CrossEntropyLoss``; without it there are no losses."""
    optimizer: ObjectRef | None = None
    """Called with the parameters; without it there is no fit."""
    amp: bool = False
    """Runs the model under ``torch.autocast``, in fits too: bfloat16 on a CPU, float16 on a GPU, unless ``autocast`` says which."""
    autocast: Literal["bfloat16", "float16"] | None = None
    """Runs the model under ``torch.autocast``, but in fits; answers are in the model's own dtype."""
    class_gradients: Literal["auto", "repeat", "loop", "batch"] = "auto"
    """How gradients of every output are computed; ``auto`` measures at loading. The answers differ in their last digits."""
    compile: bool = False
    """Compiles the model with ``torch.compile`` at loading."""
    cuda_graphs: bool = False
    """Replays blocks of few rows as CUDA graphs."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """How images lie in memory; ``auto`` measures at loading which is faster. The answers differ in their last digits."""
    input_dtype: Literal["int64"] | None = None
    """For models whose first layer is an embedding; such inputs have no gradients."""
    device: str = Field("cpu", pattern=torch_devices.PATTERN)
    gpu: ClassVar[str] = "cuda:0"

    @model_validator(mode="after")
    def _fit_needs_loss(self) -> Config:
        if self.optimizer is not None and self.loss is None:
            raise ValueError("optimizer is set but loss is not; a model is fitted to a loss")
        if self.cuda_graphs and self.device == "cpu":
            raise ValueError("cuda_graphs is set but device is cpu; CUDA graphs are of a GPU: set device, or leave cuda_graphs out")
        if self.cuda_graphs and self.compile:
            raise ValueError("cuda_graphs and compile are both set; choose one of them")
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
        ways: How gradients of every output are computed, where that has been measured.
    """

    may_wait = False
    fitted = True
    """Weights are there from the start, trained or not."""

    def __init__(self, config: Config, module: nn.Module, ways: gradients.Ways | None = None) -> None:
        device = torch_devices.device(config.device, gpu=config.cuda_graphs)
        self._config = config
        self._device = device
        self._module = module.to(device).eval()
        parameters = list(module.parameters())
        # What the owner froze stays frozen in a fit.
        self._trainable = [p for p in parameters if p.requires_grad]
        module.requires_grad_(False)
        self._recurrent = layers.recurrent(module) if device.type == "cuda" else []

        self._module_dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)
        # numpy has no bfloat16, and callers are better off with float32 than with float16: half models are cast on the device.
        self._dtype = np.dtype(np.float64 if self._module_dtype == torch.float64 else np.float32)
        self.input_dtype: np.dtype[Any] = self._dtype if config.input_dtype is None else np.dtype(config.input_dtype)

        loss = None if config.loss is None else losses.build(config.loss)
        self._loss = None if loss is None else losses.RowLoss(loss, config.task == "regression", self._dtype, device)
        self._optimizer = self._new_optimizer()
        self._precision = Precision(device, config.autocast, config.amp, self._module_dtype)
        self._staging = Staging(device) if device.type == "cuda" else None
        self._forward: Callable[[torch.Tensor], Any] = module
        self._nb_outputs: int | None = None

        self._choose_layout()
        self._ways = ways or self._measured_ways()
        self._speed_up()

        self.layer_names = layers.names(module)
        self.loss_name = "" if self._loss is None else self._loss.name
        self.loss_reduction: Literal["mean", "sum"] = "mean" if self._loss is None else self._loss.reduction
        self.output_kind: OutputKind = config.output or _output_kind(config, module, self._loss)
        self.device, self.device_uuid = str(device), torch_devices.uuid(device)
        self.notes = self._notes()
        for operation in self._not_there():
            setattr(self, operation, None)

    def device_reading(self) -> DeviceReading | None:
        return torch_devices.reading(self._device)

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        # Not inference_mode: a tensor that the owner's code caches there would fail in every later gradient, and it is
        # no faster (1 row of the CNN: 0.57 ms, with no_grad 0.58).
        with self._running(training_mode), torch.no_grad():
            # A clone, because a module may return one of its own tensors.
            return self._array(self._outputs(self._tensor(x)).clone())

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        with self._running(training_mode), torch.no_grad():
            return self._array(self._row_loss.rows(self._outputs(self._tensor(x)), y))

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        with self._running(False), torch.no_grad():
            return array(self._row_loss.rows(tensor(predictions, self._dtype, self._device), y), self._dtype)

    def loss_divisor(self, y: Array) -> float:
        return self._row_loss.divisor(y)

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        with self._running(training_mode):
            leaf = self._tensor(x).requires_grad_()
            return self._array(
                self._precision.loss_gradient(self._outputs(leaf), leaf, lambda outputs: self._row_loss.rows(outputs, y))
            )

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """As in `backend.Differentiable`. A label is a column of the outputs, so that a model with one output takes only 0."""
        with self._running(training_mode):
            if label is not None:
                return self._gradient_of_labels(x, label).reshape(len(x), 1, *x.shape[1:])
            # In training mode rows see each other through batch normalisation, and each repetition its own dropout.
            return self.every_gradient(x, "loop" if training_mode else self._ways(len(x)))

    def activations(self, x: Array, layer: str | int, *, training_mode: bool) -> Array:
        with self._running(training_mode), torch.no_grad():
            with layers.capturing(self._module, layer) as captured:
                self._outputs(self._tensor(x), self._module)
            return self._array(captured.output(len(x)))

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        with self._running(training_mode):
            leaf = self._tensor(x).requires_grad_()
            if layer is None:
                differentiated, what = self._outputs(leaf), "outputs"
            else:
                with layers.capturing(self._module, layer) as captured:
                    self._outputs(leaf, self._module)
                differentiated, what = captured.output(len(x)), f"layer {layer!r}"
            if cotangent.shape != tuple(differentiated.shape):
                raise InvalidShape(f"cotangent has shape {cotangent.shape}; expected {tuple(differentiated.shape)}, as the {what}")
            weighting = tensor(cotangent, self._dtype, self._device)
            return self._array(self._precision.gradient(differentiated, leaf, weighting))

    def train_step(self, x: Array, y: Array, *, training_mode: bool) -> float | None:
        optimizer = self._optimizer
        assert optimizer is not None, "train_step is None on a model without an optimizer"
        for parameter in self._trainable:
            parameter.requires_grad_(True)
        self._module.train(training_mode)
        try:
            with OutOfMemoryNamed(), layers.differentiable(self._recurrent):
                loss = self._row_loss.reduced(self._outputs(self._tensor(x), self._module, fitting=True), y)
                torch.autograd.backward(self._precision.scaler.scale(loss))
                self._precision.scaler.step(optimizer)
                self._precision.scaler.update()
            return float(loss.item())
        finally:
            optimizer.zero_grad(set_to_none=True)
            self._module.eval()
            for parameter in self._trainable:
                parameter.requires_grad_(False)

    def snapshot(self) -> _Snapshot:
        state = None if self._optimizer is None else copy.deepcopy(self._optimizer.state_dict())
        return _Snapshot(weights.clones(self._module), state, self._precision.scaler.state_dict())

    def rollback(self, snapshot: _Snapshot) -> None:
        weights.put_back(self._module, snapshot.weights)
        if self._optimizer is not None and snapshot.optimizer is not None:
            # The optimizer takes the tensors it is given for its own and works in them.
            self._optimizer.load_state_dict(copy.deepcopy(snapshot.optimizer))
        self._precision.scaler.load_state_dict(snapshot.scaler)

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
        # The same layout and ways, not the faster ones of another day.
        return TorchModel(self._config.model_copy(update={"memory_format": self._layout_name}), module, self._ways)

    # Inside.

    @property
    def _row_loss(self) -> losses.RowLoss:
        assert self._loss is not None, "operations of the loss are None on a model without one"
        return self._loss

    def _tensor(self, x: Array) -> torch.Tensor:
        if self._staging is not None:
            return self._staging.put(x.astype(self.input_dtype, copy=False))
        # Floating inputs are copied on their way into the module.
        put = view if self.input_dtype.kind == "f" else tensor
        return put(x, self.input_dtype, self._device)

    def _array(self, t: torch.Tensor) -> Array:
        return array(t, self._dtype, self._staging)

    def _outputs(
        self, inputs: torch.Tensor, forward: Callable[[torch.Tensor], Any] | None = None, *, fitting: bool = False
    ) -> torch.Tensor:
        """Outputs ``(n, C)``, in the module's own dtype, of inputs in `input_dtype`.

        Args:
            inputs: ``(n, *input_shape)``.
            forward: The module itself, where what stands in for it will not do.
            fitting: Whether this is of a training step.
        """
        if inputs.is_floating_point():
            # A copy also where the dtype is right: the module's first step may work in place, which autograd refuses on a
            # leaf, and which would write into the caller's rows.
            inputs = inputs.to(self._module_dtype, copy=True, memory_format=self._memory_format)
        if forward is None:
            forward = self._module if self._module.training else self._forward
        if self._precision.dtype is None:
            result = forward(inputs)
        else:
            with self._precision.scope(fitting):
                result = forward(inputs)
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
        self._module.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's stubs have no overload of it alone

    def gradient_of_sum(self, x: Array) -> Array:
        """The gradient of the summed outputs; see `torch_layouts.fastest`."""
        leaf = self._tensor(x).requires_grad_()
        return self._array(gradients.of(self._outputs(leaf).sum(), leaf, None))

    def _measured_ways(self) -> gradients.Ways:
        config = self._config
        if config.class_gradients != "auto":
            return gradients.Ways(((1, config.class_gradients),))
        if config.input_dtype is not None or -1 in config.input_shape:
            return gradients.Ways()
        return gradients.fastest(
            self.every_gradient, config.input_shape, config.nb_classes, self.input_dtype, config.max_batch_rows
        )

    def every_gradient(self, x: Array, way: gradients.Way) -> Array:
        """Gradients of every output, ``(n, C, *row)``; see `torch_gradients.fastest`."""
        # By the module itself: what was compiled or recorded has one way back a pass, and does not know vmap.
        leaf = self._tensor(x).requires_grad_()
        return gradients.WAYS[way](lambda x: self._outputs(x, self._module), leaf, self._array, self._nb_outputs)

    def _speed_up(self) -> None:
        """Tries the module in its precision, and puts what is faster in its place."""
        config, shape = self._config, self._config.input_shape
        self._precision.check(lambda: self._sample_answers(np.zeros((1, *layouts.known(shape)), self.input_dtype)))
        if config.cuda_graphs:
            self._forward = Graphed(self._module)
        if config.compile:
            # Not at the top: it imports the compiler, which takes more than a second.
            from gradwire.backends.torch import compile as torch_compile

            compiled = torch_compile.Compiled(self._module, self._device)

            def answers(x: Array, is_compiled: bool) -> list[Array]:
                self._forward = compiled if is_compiled else self._module
                return self._sample_answers(x)

            torch_compile.warm_up(answers, layouts.known(shape), self.input_dtype, config.max_batch_rows, self._precision.tolerance)
            self._forward = compiled

    def _sample_answers(self, x: Array) -> list[Array]:
        """Outputs and, where there are such, gradients."""
        found = [self.predict(x, training_mode=False)]
        if self._config.input_dtype is None:
            with suppress(Unsupported):
                found.append(self.gradient_of_sum(x))
        return found

    def _running(self, training_mode: bool) -> AbstractContextManager[None]:
        """What every operation runs in; next to nothing in the usual case, of which an attack makes thousands."""
        return self._in_mode(training_mode) if training_mode or self._recurrent else OutOfMemoryNamed()

    @contextmanager
    def _in_mode(self, training_mode: bool) -> Iterator[None]:
        mode = layers.training(self._module) if training_mode else nullcontext()
        with OutOfMemoryNamed(), mode, layers.differentiable(self._recurrent):
            yield

    def _gradient_of_labels(self, x: Array, label: Array) -> Array:
        leaf = self._tensor(x).requires_grad_()
        outputs = gradients.columns(self._outputs(leaf))
        if label.max() >= outputs.shape[1]:
            raise InvalidLabel(f"label {label.max()} is out of range; the model has {outputs.shape[1]} output(s), counted from 0")
        chosen = outputs.gather(1, tensor(label[:, None], np.dtype(np.int64), self._device))
        return self._array(gradients.of(chosen, leaf, torch.ones_like(chosen)))

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
        if self._precision.dtype is not None:
            dtype = str(self._precision.dtype).removeprefix("torch.")
            notes.append(f"runs in mixed precision with {dtype}: outputs and gradients have 2 to 3 significant digits")
        if self._config.compile:
            notes.append("compiled: answers differ from the uncompiled module's in their last digits")
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


def _output_kind(config: Config, module: nn.Module, loss: losses.RowLoss | None) -> OutputKind:
    if config.task == "regression":
        return "values"
    last = list(module.children())[-1:] if isinstance(module, nn.Sequential) else []
    if last and isinstance(last[0], (nn.Softmax, nn.Sigmoid)):
        return "probabilities"
    return "logits" if loss is None or loss.takes_logits else "probabilities"


class OutOfMemoryNamed(AbstractContextManager[None]):
    """Turns the framework's error for a full device into ours, and gives the device its memory back."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            raise OutOfMemory("the GPU has no memory left for so many rows; send fewer, or set a smaller max_batch_rows") from error
