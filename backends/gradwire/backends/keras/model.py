"""Keras 3 models on TensorFlow: sequential, functional and subclassed, with several inputs or outputs.

The answers are Keras's own, because its losses find the logits behind a softmax here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import Field, model_validator

from gradwire.backends import operations
from gradwire.backends.backend import OutputKind
from gradwire.backends.config import ModelConfig, Number, ObjectRef
from gradwire.backends.errors import ModelConfigError, Unsupported
from gradwire.backends.keras import files
from gradwire.backends.keras.network import Activation, Ends, network
from gradwire.backends.tensorflow import losses, training, weights
from gradwire.backends.tensorflow.device import Device, keras
from gradwire.backends.tensorflow.model import TensorFlowModel


class Config(ModelConfig):
    """Keys of a Keras model."""

    factory: ObjectRef | None = None
    """The owner's code; called without positional arguments, returns a ``keras.Model``. Without it ``weights`` is a .keras file."""
    loss: ObjectRef | None = None
    """A Keras loss class with its arguments, or a callable of targets and outputs; by default the compiled model's."""
    optimizer: ObjectRef | None = None
    """A Keras optimizer class with its arguments; by default the compiled model's."""
    use_logits: bool | None = None
    """Serves logits, taken before a last softmax or sigmoid, or probabilities; by default the model's outputs."""
    input_layer: int = 0
    """The input that gets the rows, of a model with several."""
    output_layer: int = 0
    """The output that is served, of a model with several."""
    other_inputs: dict[str, Number] = Field(default={})
    """Values of the model's other inputs, by name: the same for every row."""
    device: str = Field("cpu", pattern=r"^(cpu|gpu(:\d+)?)$")
    gpu: ClassVar[str] = "gpu:0"

    @model_validator(mode="after")
    def _has_source(self) -> Config:
        if self.factory is None and self.weights is None:
            raise ValueError("needs factory or weights: code that makes a model, or a .keras file")
        return self


def load(config: Config) -> TensorFlowModel:
    """Makes the model that a configuration describes. Raises ModelConfigError."""
    losses.keras_on_tensorflow("backend")
    return _loaded(config, _made, config.factory is not None)


def _loaded(config: Config, make: Callable[[Config], Any], with_weights: bool) -> TensorFlowModel:
    device = Device(config.device)
    with device():
        owner = make(config)
        ends = Ends(config.input_layer, config.output_layer, config.other_inputs)
        made, activation = network(owner, config.input_shape, bool(config.use_logits), ends)
        loss = _loss(config, owner)
        row_loss = None if loss is None else losses.RowLoss(loss, config.task == "regression", made.dtype)
        optimizer = _optimizer(config, owner, row_loss)
        model = TensorFlowModel(
            config,
            device,
            made,
            row_loss,
            lambda network: optimizer and training.OptimizerStep(optimizer, network.trainable, lambda: network.owner.losses),
            _output_kind(config, activation, row_loss),
            lambda: _loaded(config, _made if config.factory is not None else _untrained, with_weights=False),
        )
        if config.weights is not None and with_weights:
            _put_weights(config, owner, model)
    return model


def _made(config: Config) -> Any:
    """Makes the owner's model."""
    if config.factory is None:
        assert config.weights is not None
        return files.model(config.weights, config.trust_pickle)
    owner = config.factory.build("factory")
    if not isinstance(owner, keras.Model):
        raise ModelConfigError("factory", f"{config.factory.path!r} returned {type(owner).__name__}; expected a keras.Model")
    return owner


def _untrained(config: Config) -> Any:
    """Makes the model of a file, with initial weights."""
    owner = _made(config)
    try:
        return keras.models.clone_model(owner)
    except Exception as e:
        raise Unsupported(f"Keras cannot clone {type(owner).__name__}: {type(e).__name__}: {e}") from e


def _put_weights(config: Config, owner: Any, model: TensorFlowModel) -> None:
    path = config.weights
    assert path is not None
    if not path.name.endswith(files.WEIGHTS):
        raise ModelConfigError("weights", f"{path} ends in {path.suffix!r}; expected one of {', '.join(files.WEIGHTS)}")
    if path.suffix == ".safetensors":
        model.put_weights(weights.read(path), path)
    else:
        files.put(owner, path)


def _loss(config: Config, owner: Any) -> Callable[..., Any] | None:
    """The configured loss, or the compiled model's."""
    if config.loss is not None:
        return losses.build(config.loss)
    compiled: Any = getattr(owner, "loss", None)
    if isinstance(compiled, dict):
        names = list(getattr(owner, "output_names", compiled))
        compiled = compiled.get(names[config.output_layer])
    elif isinstance(compiled, (list, tuple)):
        compiled = compiled[config.output_layer]
    found: Callable[..., Any] | None = keras.losses.get(compiled)
    return found


def _optimizer(config: Config, owner: Any, loss: losses.RowLoss | None) -> Any:
    """The configured optimizer, or the compiled model's; None without a loss to train on."""
    if config.optimizer is None:
        return None if loss is None else getattr(owner, "optimizer", None)
    if loss is None:
        raise ModelConfigError("optimizer", "needs loss, which a model is fitted to; set it too, or compile the model with one")
    return training.build(config.optimizer)


def _output_kind(config: Config, activation: Activation | None, loss: losses.RowLoss | None) -> OutputKind:
    if config.output is None and config.task == "classification" and config.use_logits is not None:
        return "logits" if config.use_logits else "probabilities"
    return operations.output_kind(config, activation is not None, loss)
