"""TensorFlow 2: modules, functions, SavedModels, and Keras models as far as they are callables.

The owner's object is called as it is, ``model(x, training=...)`` where it takes ``training``, and compiled around.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gradwire.backends.backend import OutputKind
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import ModelConfigError, ModelFailed
from gradwire.backends.tensorflow import files, layers, losses, training
from gradwire.backends.tensorflow.device import Device, keras, tf
from gradwire.backends.tensorflow.files import Call
from gradwire.backends.tensorflow.network import Network, NetworkModel, outputs_of


class Config(ModelConfig):
    """Keys of a TensorFlow model."""

    factory: ObjectRef | None = None
    """The owner's code; called without positional arguments, returns a ``tf.Module`` or another callable."""
    saved_model: Path | None = None
    """The folder of a SavedModel, in place of a factory."""
    signature: str | None = None
    """Which signature of a SavedModel to call; its ``__call__`` if it has one, else ``serving_default``."""
    output_name: str | None = None
    """Which output, where the model returns several by name."""
    loss: ObjectRef | None = None
    """A Keras loss class with its arguments, or a callable of targets and outputs; without it there are no losses."""
    optimizer: ObjectRef | None = None
    """A Keras optimizer class with its arguments; without it, and without ``train_step``, there is no fit."""
    train_step: ObjectRef | None = None
    """The owner's function ``(model, x, y)``, which takes one step of training, in place of an optimizer; or what makes one."""
    input_dtype: Literal["float32", "float64", "int32", "int64"] | None = None
    """The variables', if not said. Integers for models that begin with an embedding; such inputs have no gradients."""
    device: str = Field("cpu", pattern=r"^(cpu|gpu(:\d+)?)$")
    gpu: ClassVar[str] = "gpu:0"

    @model_validator(mode="after")
    def _fit_has_one_way(self) -> Config:
        if self.optimizer is not None and self.train_step is not None:
            raise ValueError("optimizer and train_step are both set; train_step brings its own optimizer")
        if self.optimizer is not None and self.loss is None:
            raise ValueError("optimizer is set but loss is not; a model is fitted to a loss")
        if (self.factory is None) == (self.saved_model is None):
            raise ValueError("expected one of factory and saved_model")
        return self


def load(config: Config) -> NetworkModel:
    """The model that a configuration describes. Raises ModelConfigError."""
    device = Device(config.device)
    with device():
        loss = None if config.loss is None else losses.build(config.loss)
        owner, calls, dtypes = _made(config) if config.saved_model is None else files.load(config.saved_model, config.signature)
        network = _network(config, owner, calls, dtypes)
        row_loss = None if loss is None else losses.RowLoss(loss, config.task == "regression", network.dtype)
        model = NetworkModel(
            config,
            device,
            network,
            row_loss,
            partial(_step, config),
            config.output or _output_kind(config, row_loss),
            None if config.saved_model is not None else lambda: load(config.model_copy(update={"weights": None})),
        )
        if config.weights is not None:
            if config.weights.suffix != ".safetensors":
                raise ModelConfigError(
                    "weights",
                    f"{config.weights} ends in {config.weights.suffix!r}; expected .safetensors. A factory may read any other file "
                    "itself, and a SavedModel's folder is for saved_model",
                )
            model.restore(config.weights)
    return model


def _made(config: Config) -> tuple[Any, list[Call], list[Any]]:
    """The owner's object, the ways in which it may be called, and the dtypes that its inputs may have."""
    assert config.factory is not None
    owner = config.factory.build("factory")
    if not callable(owner):
        raise ModelConfigError(
            "factory", f"{config.factory.path!r} returned {type(owner).__name__}; expected a tf.Module or another callable"
        )
    if isinstance(owner, keras.layers.Layer):
        losses.keras_on_tensorflow("factory")
    dtype = next((v.dtype for v in layers.variables(owner).values() if v.dtype.is_floating), None)
    return owner, _calls(owner), [tf.float32, tf.float64] if dtype is None else [dtype]


def _calls(owner: Any) -> list[Call]:
    with_mode: Call = lambda x, training: owner(x, training=training)  # noqa: E731, two ways to call, side by side
    without: Call = lambda x, training: owner(x)  # noqa: E731, two ways to call, side by side
    if isinstance(owner, keras.layers.Layer):
        return [with_mode]
    try:
        parameters = inspect.signature(owner).parameters.values()
    except (TypeError, ValueError):
        return [with_mode, without]
    if any(parameter.name == "training" for parameter in parameters):
        return [with_mode]
    return [with_mode, without] if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters) else [without]


def _network(config: Config, owner: Any, calls: Sequence[Call], dtypes: Sequence[Any]) -> Network:
    if config.input_dtype is not None:
        dtypes = [tf.as_dtype(config.input_dtype)]

    def forward_by(call: Call, dtype: Any) -> Call:
        return lambda x, training: _chosen(config, call(tf.cast(x, dtype), training))

    forward, inner, watched = first_that_runs(
        config,
        [(forward_by(call, dtype), dtype) for dtype in dtypes for call in calls],
        "factory" if config.factory else "saved_model",
    )
    variables, trainable = layers.variables(owner), layers.trainable(owner)
    known = {id(variable) for variable in variables.values()}
    found = [variable for variable in watched if id(variable) not in known]
    variables |= {f"captured.{i}.{v.name.removesuffix(':0')}": v for i, v in enumerate(found)}
    wide = inner == tf.float64 or (not inner.is_floating and any(v.dtype == tf.float64 for v in variables.values()))
    dtype = np.dtype(np.float64 if wide else np.float32)
    half = inner in (tf.float16, tf.bfloat16)
    return Network(
        owner,
        forward,
        # numpy has no bfloat16, and callers are better off with float32 than with float16.
        input_dtype=dtype if inner.is_floating else np.dtype(inner.as_numpy_dtype),
        dtype=dtype,
        variables=variables,
        trainable=[*trainable, *found],
        others=layers.seeds(owner),
        notes=[f"computes in {inner.name}; inputs and answers are float32"] if half else [],
    )


_FREE_SIZE = 8


def first_that_runs(config: ModelConfig, forwards: Sequence[tuple[Call, Any]], key: str) -> tuple[Call, Any, list[Any]]:
    """The first way to call a model, with the dtype of its inputs, that answers one row; and the variables it trains.

    It runs once outside of any graph, because a model may make its variables when it is called first.

    Raises:
        ModelConfigError: None does, and the sizes of a row are known.
    """
    shape = (1, *(_FREE_SIZE if size == -1 else size for size in config.input_shape))
    row = np.random.default_rng(0).random(shape)
    problem: Exception | None = None
    for forward, dtype in forwards:
        try:
            with tf.GradientTape() as tape:
                outputs_of(forward(tf.cast(row if dtype.is_floating else np.zeros(shape), dtype), False))
        except ModelConfigError:
            raise
        except Exception as e:
            problem = problem or e
            continue
        return forward, dtype, list(tape.watched_variables())
    assert problem is not None
    if -1 in config.input_shape:
        return *forwards[0], []
    if isinstance(problem, ModelFailed):
        raise ModelConfigError(key, str(problem)) from problem
    raise ModelConfigError(
        "input_shape",
        f"the model does not take one row of shape {list(shape[1:])}: {type(problem).__name__}: {problem}",
    ) from problem


def _chosen(config: Config, result: Any) -> Any:
    """The outputs by their name, where a model returns a dict."""
    if not isinstance(result, Mapping):
        return result
    there = ", ".join(map(str, result)) or "none"
    if config.output_name is None and len(result) != 1:
        raise ModelConfigError("output_name", f"the model returns several outputs: {there}; say which")
    name = next(iter(result)) if config.output_name is None else config.output_name
    if name not in result:
        raise ModelConfigError("output_name", f"the model returns no output {name!r}; there are: {there}")
    return result[name]


def _step(config: Config, network: Network) -> training.OptimizerStep | training.OwnersStep | None:
    if config.train_step is not None:
        step = losses.owners_function(config.train_step, "train_step", "(model, x, y)")
        return training.OwnersStep(step, network.owner)
    if config.optimizer is None:
        return None
    return training.OptimizerStep(training.build(config.optimizer), network.trainable, penalties=list)


def _output_kind(config: Config, loss: losses.RowLoss | None) -> OutputKind:
    if config.task == "regression":
        return "values"
    return "logits" if loss is None or loss.takes_logits else "probabilities"
