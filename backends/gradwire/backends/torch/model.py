"""PyTorch modules.

Invariant: outside of calls, parameters are frozen and layers are in evaluation mode. Autograd then computes the gradient of
the inputs alone, and only a training step changes the model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from gradwire.backends import jacobians, operations
from gradwire.backends.backend import Array, DeviceReading, OutputKind
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import ModelConfigError, Unsupported
from gradwire.backends.example_rows import known_sizes
from gradwire.backends.torch import gradients, layers, layouts, losses, training, weights
from gradwire.backends.torch.arrays import array, tensor, view
from gradwire.backends.torch.cuda_graphs import Graphed
from gradwire.backends.torch.device import DEVICE_PATTERN, FrameworkErrors, device_uuid, find_device, read_device
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
    """Runs the model under ``torch.autocast``, except in fits; answers are in the model's own dtype."""
    class_gradients: Literal["auto", "repeat", "loop", "batch"] = "auto"
    """The way to compute gradients of every output; ``auto`` measures at loading. The answers differ in their last digits."""
    compile: bool = False
    """Compiles the model with ``torch.compile`` at loading."""
    cuda_graphs: bool = False
    """Replays blocks of few rows as CUDA graphs."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """The memory layout of images; ``auto`` measures the faster one at loading. The answers differ in their last digits."""
    input_dtype: Literal["int64"] | None = None
    """For models whose first layer is an embedding; such inputs have no gradients."""
    device: str = Field("cpu", pattern=DEVICE_PATTERN)
    gpu: ClassVar[str] = "cuda:0"

    @model_validator(mode="after")
    def _fit_needs_loss(self) -> Config:
        if self.optimizer is not None and self.loss is None:
            raise ValueError("optimizer needs loss, which a model is fitted to; set it too")
        if self.cuda_graphs and self.device == "cpu":
            raise ValueError("cuda_graphs needs a GPU, and device is cpu; set device, or leave cuda_graphs out")
        if self.cuda_graphs and self.compile:
            raise ValueError("cuda_graphs and compile are both set; choose one of them")
        return self


def load(config: Config) -> TorchModel:
    """Makes the model that a configuration describes. Raises ModelConfigError."""
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
        ways: How gradients of every output are computed, if that has been measured.
    """

    may_wait = False
    fitted = True
    """True from the start: weights exist, trained or not."""

    def __init__(self, config: Config, module: nn.Module, ways: gradients.Ways | None = None) -> None:
        device = find_device(config.device, gpu=config.cuda_graphs)
        self._config = config
        self._device = device
        self._module = module.to(device).eval()
        parameters = list(module.parameters())
        # Parameters that the owner froze stay frozen in a fit.
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
        self.output_kind: OutputKind = operations.output_kind(config, _ends_in_probabilities(module), self._loss)
        self.device, self.device_uuid = str(device), device_uuid(device)
        self.notes = self._notes()
        operations.withdraw(self, self._missing_operations())

    def device_reading(self) -> DeviceReading | None:
        """The memory and utilisation of the device; see `backend.Placed`."""
        return read_device(self._device)

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Outputs ``(n, C)``; see `backend.Model`."""
        # Not inference_mode: a tensor that the owner's code caches there would fail in every later gradient, and it is
        # no faster (1 row of the CNN: 0.57 ms, with no_grad 0.58).
        with self._running(training_mode), torch.no_grad():
            # A clone, because a module may return one of its own tensors.
            return self._array(self._outputs(self._tensor(x)).clone())

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The loss of each row; see `backend.Differentiable`."""
        with self._running(training_mode), torch.no_grad():
            return self._array(self._loss_rows(self._outputs(self._tensor(x)), y))

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """The loss of each row of outputs; see `backend.Differentiable`."""
        with self._running(False), torch.no_grad():
            return array(self._loss_rows(tensor(predictions, self._dtype, self._device), y), self._dtype)

    def loss_divisor(self, y: Array) -> float:
        """The divisor of a mean over the rows; see `backend.Differentiable`."""
        return self._row_loss.divisor(y)

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The gradient of the summed loss; see `backend.Differentiable`."""
        with self._running(training_mode):
            leaf = self._tensor(x).requires_grad_()
            return self._array(
                self._precision.loss_gradient(self._outputs(leaf), leaf, lambda outputs: self._loss_rows(outputs, y))
            )

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """Gradients of class outputs; see `backend.Differentiable`.

        A label is a column of the outputs, so that a model with one output takes only 0.
        """
        with self._running(training_mode):
            if label is not None:
                return self._gradient_of_labels(x, label).reshape(len(x), 1, *x.shape[1:])
            # In training mode batch normalisation mixes rows, and each repetition would draw a dropout of its own.
            return self.every_gradient(x, "loop" if training_mode else self._ways(len(x)))

    def activations(self, x: Array, layer: str | int, *, training_mode: bool) -> Array:
        """The output of a layer; see `backend.Differentiable`."""
        with self._running(training_mode), torch.no_grad():
            with layers.capturing(self._module, layer) as captured:
                self._outputs(self._tensor(x), self._module)
            return self._array(captured.output(len(x)))

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        """The cotangent times the Jacobian; see `backend.Differentiable`."""
        with self._running(training_mode):
            leaf = self._tensor(x).requires_grad_()
            if layer is None:
                differentiated = self._outputs(leaf)
            else:
                with layers.capturing(self._module, layer) as captured:
                    self._outputs(leaf, self._module)
                differentiated = captured.output(len(x))
            jacobians.check_cotangent(cotangent, differentiated.shape, layer)
            weighting = tensor(cotangent, self._dtype, self._device)
            return self._array(self._precision.gradient(differentiated, leaf, weighting))

    def train_step(self, x: Array, y: Array, *, training_mode: bool) -> float | None:
        """One step of the optimizer; see `backend.Trainable`."""
        optimizer = self._optimizer
        assert optimizer is not None, "train_step is None on a model without an optimizer"
        for parameter in self._trainable:
            parameter.requires_grad_(True)
        self._module.train(training_mode)
        try:
            with FrameworkErrors(), layers.differentiable(self._recurrent):
                rows = self._loss_rows(self._outputs(self._tensor(x), self._module, fitting=True), y)
                loss = self._row_loss.reduced(rows, self._row_loss.divisor(y))
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
        """Copies everything that a fit can change."""
        state = None if self._optimizer is None else copy.deepcopy(self._optimizer.state_dict())
        return _Snapshot(weights.copies(self._module), state, self._precision.scaler.state_dict())

    def rollback(self, snapshot: _Snapshot) -> None:
        """Restores a snapshot."""
        weights.put_back(self._module, snapshot.weights)
        if self._optimizer is not None and snapshot.optimizer is not None:
            # The optimizer takes the tensors it is given for its own and works in them.
            self._optimizer.load_state_dict(copy.deepcopy(snapshot.optimizer))
        self._precision.scaler.load_state_dict(snapshot.scaler)

    def save(self, path: Path) -> None:
        """Writes the weights to a file."""
        weights.save(self._module, path)

    def restore(self, path: Path) -> None:
        """Reads the weights from a file that `save` wrote; the optimizer is reset, because its state fits other weights."""
        weights.put(self._module, weights.read_saved(path), path)
        self._optimizer = self._new_optimizer()

    def untrained_clone(self) -> TorchModel:
        """A model of the same architecture that has not been fitted. Raises Unsupported if it would share parameters."""
        module = _module(self._config)
        ours = {id(p) for p in self._module.parameters()}
        operations.check_independent(
            module is self._module or any(id(p) in ours for p in module.parameters()), "module or parameters"
        )
        # The same layout and ways: measured again, others might be faster.
        return TorchModel(self._config.model_copy(update={"memory_format": self._layout_name}), module, self._ways)

    # Inside.

    @property
    def _row_loss(self) -> losses.RowLoss:
        assert self._loss is not None, "operations of the loss are None on a model without one"
        return self._loss

    def _loss_rows(self, outputs: torch.Tensor, y: Array) -> torch.Tensor:
        """The loss of each row of outputs ``(n, C)``."""
        return self._row_loss.rows(outputs, self._row_loss.targets(y, tuple(outputs.shape[1:])))

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
            forward: The module itself, if its faster replacement must not be used.
            fitting: Whether this is part of a training step.
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
        """Changes the memory layout of images: of parameters, and of all later inputs."""
        self._memory_format = memory_format
        self._module.to(memory_format=memory_format)  # type: ignore[call-overload]  # torch's stubs have no overload of it alone

    def gradient_of_sum(self, x: Array) -> Array:
        """The gradient of the summed outputs; see `layouts.fastest`."""
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
        """Gradients of every output, ``(n, C, *row)``; see `gradients.fastest`."""
        # The module itself: compiled or recorded forwards allow one backward a pass, and no vmap.
        leaf = self._tensor(x).requires_grad_()
        return gradients.WAYS[way](lambda x: self._outputs(x, self._module), leaf, self._array, self._nb_outputs)

    def _speed_up(self) -> None:
        """Tries the module in its precision, and replaces it with its compiled or recorded form if that is configured."""
        config, shape = self._config, self._config.input_shape
        self._precision.check(lambda: self._sample_answers(np.zeros((1, *known_sizes(shape)), self.input_dtype)))
        if config.cuda_graphs:
            self._forward = Graphed(self._module)
        if config.compile:
            # Not at the top: it imports the compiler, which takes more than a second.
            from gradwire.backends.torch import compile as torch_compile

            compiled = torch_compile.Compiled(self._module, self._device)

            def answers(x: Array, is_compiled: bool) -> list[Array]:
                self._forward = compiled if is_compiled else self._module
                return self._sample_answers(x)

            torch_compile.warm_up(answers, known_sizes(shape), self.input_dtype, config.max_batch_rows, self._precision.tolerance)
            self._forward = compiled

    def _sample_answers(self, x: Array) -> list[Array]:
        """Outputs and, if they exist, gradients."""
        found = [self.predict(x, training_mode=False)]
        if self._config.input_dtype is None:
            with suppress(Unsupported):
                found.append(self.gradient_of_sum(x))
        return found

    def _running(self, training_mode: bool) -> AbstractContextManager[None]:
        """The context that every operation runs in; costs next to nothing in evaluation mode, of which attacks make thousands."""
        return self._in_mode(training_mode) if training_mode or self._recurrent else FrameworkErrors()

    @contextmanager
    def _in_mode(self, training_mode: bool) -> Iterator[None]:
        mode = layers.training(self._module) if training_mode else nullcontext()
        with FrameworkErrors(), mode, layers.differentiable(self._recurrent):
            yield

    def _gradient_of_labels(self, x: Array, label: Array) -> Array:
        leaf = self._tensor(x).requires_grad_()
        outputs = gradients.columns(self._outputs(leaf))
        jacobians.check_label(label, outputs.shape[1])
        chosen = outputs.gather(1, tensor(label[:, None], np.dtype(np.int64), self._device))
        return self._array(gradients.of(chosen, leaf, torch.ones_like(chosen)))

    def _new_optimizer(self) -> torch.optim.Optimizer | None:
        spec = self._config.optimizer
        return None if spec is None else training.build(spec, list(self._module.parameters()))

    def _missing_operations(self) -> list[str]:
        missing: list[str] = []
        if self._loss is None:
            missing += operations.OF_LOSS
        if self._config.input_dtype is not None:
            missing += operations.OF_GRADIENTS
        if self._optimizer is None:
            missing += ["train_step"]
        return missing

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
    weights: weights.Copies
    optimizer: dict[str, Any] | None
    scaler: dict[str, Any]


def _module(config: Config) -> nn.Module:
    made = config.factory.build("factory")
    if not isinstance(made, nn.Module):
        raise ModelConfigError("factory", f"{config.factory.path!r} returned {type(made).__name__}; expected a torch.nn.Module")
    return made


def _ends_in_probabilities(module: nn.Module) -> bool:
    last = list(module.children())[-1:] if isinstance(module, nn.Sequential) else []
    return bool(last) and isinstance(last[0], (nn.Softmax, nn.Sigmoid))
