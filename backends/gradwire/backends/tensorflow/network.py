"""TensorFlow models as networks: one function from inputs to outputs, with the variables behind it.

The owner's object is called as it is, ``model(x, training=...)`` if it takes ``training``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradwire.backends.config import Object
from gradwire.backends.errors import ModelConfigError, ModelFailed
from gradwire.backends.example_rows import known_sizes
from gradwire.backends.tensorflow import layers
from gradwire.backends.tensorflow.device import keras, tf
from gradwire.backends.tensorflow.files import Call
from gradwire.backends.tensorflow.losses import keras_on_tensorflow


@dataclass(frozen=True)
class Network:
    """The owner's model as a function, with its variables.

    Attributes:
        owner: The owner's object, which holds the layers and variables.
        forward: ``(inputs, training)`` to outputs ``(n, ...)``.
        input_dtype: Of its inputs.
        dtype: Of outputs and gradients, float32 or float64.
        variables: The weights by name, trainable or not.
        trainable: The weights that training changes.
        others: Other variables that calls change: the states of random generators.
        for_loss: Converts outputs to those that the loss takes.
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


def from_factory(factory: Object) -> tuple[Any, list[Call], list[Any]]:
    """Makes the owner's object, and lists the ways to call it and the dtypes that its inputs may have."""
    owner = factory.build("factory")
    if not callable(owner):
        raise ModelConfigError(
            "factory", f"{factory.path!r} returned {type(owner).__name__}; expected a tf.Module or another callable"
        )
    if isinstance(owner, keras.layers.Layer):
        keras_on_tensorflow("factory")
    dtype = next((v.dtype for v in layers.variables(owner).values() if v.dtype.is_floating), None)
    return owner, _calls(owner), [tf.float32, tf.float64] if dtype is None else [dtype]


def _calls(owner: Any) -> list[Call]:
    """The ways to call an owner's object, with and without ``training``; `first_that_runs` chooses among them."""
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


def network(
    owner: Any, calls: Sequence[Call], dtypes: Sequence[Any], input_shape: Sequence[int], output_name: str | None, key: str
) -> Network:
    """Makes the network of an owner's object.

    Args:
        owner: The object, which holds the layers and variables.
        calls: The ways in which it may be called.
        dtypes: The dtypes that its inputs may have.
        input_shape: Of a row.
        output_name: Which output to serve, if the object returns several by name.
        key: The configuration key that the object comes from, for errors.

    Raises:
        ModelConfigError: The object does not answer one row.
    """

    def forward_by(call: Call, dtype: Any) -> Call:
        return lambda x, training: _chosen(call(tf.cast(x, dtype), training), output_name)

    forwards = [(forward_by(call, dtype), dtype) for dtype in dtypes for call in calls]
    forward, inner, watched = first_that_runs(forwards, input_shape, key)
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


def with_captured(network: Network, variables: Sequence[Any]) -> Network:
    """Adds variables that are not attributes of the owner: in a function's closure, or a SavedModel's graph."""
    known = {id(variable) for variable in (*network.variables.values(), *network.others)}
    found = [variable for variable in variables if id(variable) not in known]
    captured = {f"captured.{i}.{v.name.removesuffix(':0')}": v for i, v in enumerate(found)}
    trainable = [*network.trainable, *(v for v in found if v.trainable)]
    return replace(network, variables={**network.variables, **captured}, trainable=trainable)


def first_that_runs(forwards: Sequence[tuple[Call, Any]], input_shape: Sequence[int], key: str) -> tuple[Call, Any, list[Any]]:
    """Finds the first way to call a model that answers one row, its input dtype and its trained variables.

    The model runs once outside of any graph, because it may make its variables when it is called first.

    Raises:
        ModelConfigError: No way answers a row of known sizes.
    """
    shape = (1, *known_sizes(input_shape))
    row = np.random.default_rng(0).random(shape)
    problem: Exception | None = None
    for forward, dtype in forwards:
        try:
            with tf.GradientTape() as tape:
                layers.outputs(forward(tf.cast(row if dtype.is_floating else np.zeros(shape), dtype), False))
        except ModelConfigError:
            raise
        except Exception as e:
            problem = problem or e
            continue
        return forward, dtype, list(tape.watched_variables())
    assert problem is not None
    if -1 in input_shape:
        return *forwards[0], []
    if isinstance(problem, ModelFailed):
        raise ModelConfigError(key, str(problem)) from problem
    raise ModelConfigError(
        "input_shape",
        f"the model does not take one row of shape {list(shape[1:])}: {type(problem).__name__}: {problem}",
    ) from problem


def _chosen(result: Any, output_name: str | None) -> Any:
    """Takes the outputs by name from a result that is a dict."""
    if not isinstance(result, Mapping):
        return result
    there = ", ".join(map(str, result)) or "none"
    if output_name is None and len(result) != 1:
        raise ModelConfigError("output_name", f"the model returns several outputs: {there}; name one of them")
    name = next(iter(result)) if output_name is None else output_name
    if name not in result:
        raise ModelConfigError("output_name", f"the model returns no output {name!r}; its outputs: {there}")
    return result[name]
