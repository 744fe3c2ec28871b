"""Keras 3 models on TensorFlow: sequential, functional and subclassed, with several inputs or outputs.

What a model computes is that of Keras itself, its loss's knowledge of the logits behind a softmax included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from gradwire.backends.backend import OutputKind
from gradwire.backends.config import ModelConfig, Number, ObjectRef
from gradwire.backends.errors import ModelConfigError, Unsupported
from gradwire.backends.keras import files
from gradwire.backends.tensorflow import layers, losses, training
from gradwire.backends.tensorflow.device import Device, keras, tf
from gradwire.backends.tensorflow.network import Network, NetworkModel, outputs_of


class Config(ModelConfig):
    """Keys of a Keras model."""

    factory: ObjectRef | None = None
    """The owner's code; called without positional arguments, returns a ``keras.Model``. Without it ``weights`` is a .keras file."""
    loss: ObjectRef | None = None
    """A Keras loss class with its arguments, or a callable of targets and outputs; else the one that the model is compiled with."""
    optimizer: ObjectRef | None = None
    """A Keras optimizer class with its arguments; else the one that the model is compiled with."""
    use_logits: bool | None = None
    """Whether outputs are logits, those before a last softmax or sigmoid if there is one; if not said, outputs are the model's."""
    input_layer: int = 0
    """Which input the rows are, of a model with several."""
    output_layer: int = 0
    """Which output is served, of a model with several."""
    other_inputs: dict[str, Number] = Field(default={})
    """What the model's other inputs are fed with, by name: the same for every row."""
    device: str = Field("cpu", pattern=r"^(cpu|gpu(:\d+)?)$")
    gpu: ClassVar[str] = "gpu:0"

    @model_validator(mode="after")
    def _there_is_a_model(self) -> Config:
        if self.factory is None and self.weights is None:
            raise ValueError("there is neither factory nor weights; expected code that makes a model, or a .keras file")
        return self


def load(config: Config) -> NetworkModel:
    """The model that a configuration describes. Raises ModelConfigError."""
    losses.keras_on_tensorflow("backend")
    return _loaded(config, _made, config.factory is not None)


def _loaded(config: Config, make: Callable[[Config], Any], with_weights: bool) -> NetworkModel:
    device = Device(config.device)
    with device():
        owner = make(config)
        network, end = _network(config, owner)
        loss = _loss(config, owner)
        row_loss = None if loss is None else losses.RowLoss(loss, config.task == "regression", network.dtype)
        optimizer = _optimizer(config, owner, row_loss)
        model = NetworkModel(
            config,
            device,
            network,
            row_loss,
            lambda network: optimizer and training.OptimizerStep(optimizer, network.trainable, lambda: network.owner.losses),
            config.output or _output_kind(config, end, row_loss),
            lambda: _loaded(config, _made if config.factory is not None else _untrained, with_weights=False),
        )
        if config.weights is not None and with_weights:
            _put_weights(config, owner, model)
    return model


def _made(config: Config) -> Any:
    """The owner's model."""
    if config.factory is None:
        assert config.weights is not None
        return files.model(config.weights, config.trust_pickle)
    owner = config.factory.build("factory")
    if not isinstance(owner, keras.Model):
        raise ModelConfigError("factory", f"{config.factory.path!r} returned {type(owner).__name__}; expected a keras.Model")
    return owner


def _untrained(config: Config) -> Any:
    """The model of a file, with the weights that its layers begin with."""
    owner = _made(config)
    try:
        return keras.models.clone_model(owner)
    except Exception as e:
        raise Unsupported(f"Keras cannot make {type(owner).__name__} anew: {type(e).__name__}: {e}") from e


def _put_weights(config: Config, owner: Any, model: NetworkModel) -> None:
    path = config.weights
    assert path is not None
    if not path.name.endswith(files.WEIGHTS):
        raise ModelConfigError("weights", f"{path} has none of the endings of weights: {', '.join(files.WEIGHTS)}")
    if path.suffix == ".safetensors":
        model.restore(path)
    else:
        files.put_weights(owner, path)


class _End(NamedTuple):
    """How a model ends."""

    activation: Callable[[Any], Any] | None
    """Keras's softmax or sigmoid, where it is the last thing that the model does."""


def _network(config: Config, owner: Any) -> tuple[Network, _End]:
    called, feed = _called(config, owner)
    several = called is owner

    def whole(x: Any, mode: bool) -> Any:
        result = called(feed(x), training=mode)
        return outputs_of(_chosen(config, result) if several else result)

    dtype = _input_dtype(config, owner, called)
    shape = (1, *(_FREE_SIZE if size == -1 else size for size in config.input_shape))
    row = np.random.default_rng(0).random(shape)
    end = _End(None)
    try:
        outputs = whole(tf.cast(row if dtype.is_floating else np.zeros(shape), dtype), False)
        end = _end(outputs)
    except ModelConfigError:
        raise
    except Exception as e:
        if -1 not in config.input_shape:
            raise ModelConfigError(
                "input_shape", f"the model does not take one row of shape {list(shape[1:])}: {type(e).__name__}: {e}"
            ) from e
    activation = end.activation
    strip = bool(config.use_logits) and activation is not None

    def logits(x: Any, mode: bool) -> Any:
        return whole(x, mode)._keras_logits

    wide = np.dtype(np.float64 if dtype == tf.float64 else np.float32)
    network = Network(
        called,
        logits if strip else whole,
        input_dtype=wide if dtype.is_floating else np.dtype(np.int64),
        dtype=wide,
        variables=layers.variables(owner),
        trainable=layers.trainable(owner),
        others=layers.seeds(owner),
        for_loss=activation if strip and activation is not None else lambda outputs: outputs,
        notes=_notes(owner, strip),
    )
    return network, end


_FREE_SIZE = 8


def _called(config: Config, owner: Any) -> tuple[Any, Callable[[Any], Any]]:
    """What is called for the rows, and how they become its inputs: a model with several is cut down to one of each."""
    inputs, outputs = getattr(owner, "inputs", None) or [], getattr(owner, "outputs", None) or []
    for key, index, there in (("input_layer", config.input_layer, inputs), ("output_layer", config.output_layer, outputs)):
        # A subclassed model's outputs are counted when it has been called.
        count = len(there) or (1 if key == "input_layer" else index + 1)
        if not 0 <= index < count:
            raise ModelConfigError(key, f"is {index}; the model has {count}, counted from 0")
    unknown = set(config.other_inputs) - {_name(each) for each in inputs if each is not inputs[config.input_layer]}
    if unknown:
        there = ", ".join(_name(each) for each in inputs if each is not inputs[config.input_layer]) or "none"
        raise ModelConfigError("other_inputs", f"{', '.join(sorted(unknown))}: the model's other inputs are: {there}")
    if len(inputs) <= 1 and len(outputs) <= 1:
        return owner, lambda x: x
    rows, served = inputs[config.input_layer], outputs[config.output_layer]
    if not config.other_inputs:
        try:
            return keras.Model(rows, served), lambda x: x
        except ValueError:
            missing = ", ".join(_name(each) for each in inputs if each is not rows)
            raise ModelConfigError(
                "other_inputs",
                f"output {config.output_layer} does not depend on input {config.input_layer} ({_name(rows)}) alone; give values of "
                f"the others: {missing}",
            ) from None
    absent = [_name(each) for each in inputs if each is not rows and _name(each) not in config.other_inputs]
    if absent:
        raise ModelConfigError("other_inputs", f"there is no value of {', '.join(absent)}; expected one of every other input")
    return keras.Model(inputs, served), _feeding(config, inputs, rows)


def _feeding(config: Config, inputs: Sequence[Any], rows: Any) -> Callable[[Any], list[Any]]:
    constants = {}
    for each in inputs:
        if each is not rows:
            try:
                value = np.asarray(config.other_inputs[_name(each)], each.dtype)
                constants[_name(each)] = np.broadcast_to(value, [size or value.shape[i] for i, size in enumerate(each.shape[1:])])
            except (ValueError, IndexError) as e:
                raise ModelConfigError("other_inputs", f"{_name(each)} has rows {tuple(each.shape[1:])}: {e}") from e

    def feed(x: Any) -> list[Any]:
        n = tf.shape(x)[0]
        return [x if each is rows else tf.repeat(constants[_name(each)][None], n, axis=0) for each in inputs]

    return feed


def _name(tensor: Any) -> str:
    return str(tensor.name)


def _chosen(config: Config, result: Any) -> Any:
    """One of the outputs of a model whose outputs show only when it is called."""
    found = keras.tree.flatten(result)
    if config.output_layer >= len(found):
        raise ModelConfigError("output_layer", f"is {config.output_layer}; the model has {len(found)}, counted from 0")
    return found[config.output_layer]


def _input_dtype(config: Config, owner: Any, called: Any) -> Any:
    inputs = getattr(called, "inputs", None)
    if not inputs:
        # A model without inputs takes the dtype of the first rows for its own.
        return tf.float64 if any(layer.variable_dtype == "float64" for layer in owner._flatten_layers()) else tf.float32
    return tf.as_dtype(inputs[config.input_layer if len(inputs) > 1 else 0].dtype)


def _end(outputs: Any) -> _End:
    """Keras notes the logits on what its softmax and its sigmoid return."""
    logits = getattr(outputs, "_keras_logits", None)
    if logits is None:
        return _End(None)
    sigmoid = np.allclose(tf.sigmoid(logits), outputs, atol=1e-3)
    return _End(keras.activations.sigmoid if sigmoid else keras.activations.softmax)


def _loss(config: Config, owner: Any) -> Callable[..., Any] | None:
    """The configured loss, or the one that the model is compiled with."""
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
    """The configured optimizer, or the one that the model is compiled with; None where there is no loss to train on."""
    if config.optimizer is None:
        return None if loss is None else getattr(owner, "optimizer", None)
    if loss is None:
        raise ModelConfigError(
            "optimizer", "is set, but neither is loss nor is the model compiled with one; a model is fitted to a loss"
        )
    return training.build(config.optimizer)


def _notes(owner: Any, strip: bool) -> list[str]:
    notes = []
    if strip:
        notes.append("outputs are the logits before the model's last activation")
    half = {layer.compute_dtype for layer in owner._flatten_layers()} & {"float16", "bfloat16"}
    notes += [f"computes in {name}; inputs and answers are float32" for name in sorted(half)]
    return notes


def _output_kind(config: Config, end: _End, loss: losses.RowLoss | None) -> OutputKind:
    if config.task == "regression":
        return "values"
    if config.use_logits is not None:
        return "logits" if config.use_logits else "probabilities"
    if end.activation is not None:
        return "probabilities"
    return "logits" if loss is None or loss.takes_logits else "probabilities"
