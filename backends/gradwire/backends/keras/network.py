"""Keras models as networks, with one of several inputs and outputs, and with or without their last activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gradwire.backends.config import Number
from gradwire.backends.errors import ModelConfigError
from gradwire.backends.example_rows import known_sizes
from gradwire.backends.tensorflow import layers
from gradwire.backends.tensorflow.device import keras, tf
from gradwire.backends.tensorflow.network import Network

Activation: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True)
class Ends:
    """The ends of a model with several inputs or outputs.

    Attributes:
        input_layer: The index of the input that gets the rows.
        output_layer: The index of the output that is served.
        other_inputs: Values of the other inputs, by name.
    """

    input_layer: int
    output_layer: int
    other_inputs: Mapping[str, Number]


def network(owner: Any, input_shape: Sequence[int], use_logits: bool, ends: Ends) -> tuple[Network, Activation | None]:
    """Makes the network of a Keras model, and finds the softmax or sigmoid that the model ends in.

    Args:
        owner: The ``keras.Model``.
        input_shape: Of a row.
        use_logits: Whether to serve the logits before a last softmax or sigmoid.
        ends: The input and output to use.

    Raises:
        ModelConfigError: The model does not answer one row.
    """
    called, feed = _called(owner, ends)
    several = called is owner

    def whole(x: Any, mode: bool) -> Any:
        result = called(feed(x), training=mode)
        return layers.outputs(_chosen(result, ends.output_layer) if several else result)

    dtype = _input_dtype(owner, called, ends.input_layer)
    shape = (1, *known_sizes(input_shape))
    row = np.random.default_rng(0).random(shape)
    activation: Activation | None = None
    try:
        outputs = whole(tf.cast(row if dtype.is_floating else np.zeros(shape), dtype), False)
        activation = _activation(outputs)
    except ModelConfigError:
        raise
    except Exception as e:
        if -1 not in input_shape:
            raise ModelConfigError(
                "input_shape", f"the model does not take one row of shape {list(shape[1:])}: {type(e).__name__}: {e}"
            ) from e
    strip = use_logits and activation is not None

    def logits(x: Any, mode: bool) -> Any:
        return whole(x, mode)._keras_logits

    wide = np.dtype(np.float64 if dtype == tf.float64 else np.float32)
    made = Network(
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
    return made, activation


def _called(owner: Any, ends: Ends) -> tuple[Any, Callable[[Any], Any]]:
    """Cuts a model down to one input and output; returns it, and a function from rows to its inputs."""
    inputs, outputs = getattr(owner, "inputs", None) or [], getattr(owner, "outputs", None) or []
    for key, index, there in (("input_layer", ends.input_layer, inputs), ("output_layer", ends.output_layer, outputs)):
        # The outputs of a subclassed model are counted when it has been called.
        count = len(there) or (1 if key == "input_layer" else index + 1)
        if not 0 <= index < count:
            raise ModelConfigError(key, f"is {index}; the model has {count}, counted from 0")
    unknown = set(ends.other_inputs) - {_name(each) for each in inputs if each is not inputs[ends.input_layer]}
    if unknown:
        there = ", ".join(_name(each) for each in inputs if each is not inputs[ends.input_layer]) or "none"
        raise ModelConfigError("other_inputs", f"{', '.join(sorted(unknown))}: the model's other inputs are: {there}")
    if len(inputs) <= 1 and len(outputs) <= 1:
        return owner, lambda x: x
    rows, served = inputs[ends.input_layer], outputs[ends.output_layer]
    if not ends.other_inputs:
        try:
            return keras.Model(rows, served), lambda x: x
        except ValueError:
            missing = ", ".join(_name(each) for each in inputs if each is not rows)
            raise ModelConfigError(
                "other_inputs",
                f"output {ends.output_layer} does not depend on input {ends.input_layer} ({_name(rows)}) alone; give values of "
                f"the others: {missing}",
            ) from None
    absent = [_name(each) for each in inputs if each is not rows and _name(each) not in ends.other_inputs]
    if absent:
        raise ModelConfigError("other_inputs", f"lacks a value of {', '.join(absent)}; expected one for every other input")
    return keras.Model(inputs, served), _feeding(ends.other_inputs, inputs, rows)


def _feeding(values: Mapping[str, Number], inputs: Sequence[Any], rows: Any) -> Callable[[Any], list[Any]]:
    constants = {}
    for each in inputs:
        if each is not rows:
            try:
                value = np.asarray(values[_name(each)], each.dtype)
                constants[_name(each)] = np.broadcast_to(value, [size or value.shape[i] for i, size in enumerate(each.shape[1:])])
            except (ValueError, IndexError) as e:
                raise ModelConfigError("other_inputs", f"{_name(each)} has rows {tuple(each.shape[1:])}: {e}") from e

    def feed(x: Any) -> list[Any]:
        n = tf.shape(x)[0]
        return [x if each is rows else tf.repeat(constants[_name(each)][None], n, axis=0) for each in inputs]

    return feed


def _name(tensor: Any) -> str:
    return str(tensor.name)


def _chosen(result: Any, output_layer: int) -> Any:
    """Takes an output of a model whose outputs are known only when it is called."""
    found = keras.tree.flatten(result)
    if output_layer >= len(found):
        raise ModelConfigError("output_layer", f"is {output_layer}; the model has {len(found)}, counted from 0")
    return found[output_layer]


def _input_dtype(owner: Any, called: Any, input_layer: int) -> Any:
    inputs = getattr(called, "inputs", None)
    if not inputs:
        # A model without inputs adopts the dtype of the first rows.
        return tf.float64 if any(layer.variable_dtype == "float64" for layer in owner._flatten_layers()) else tf.float32
    return tf.as_dtype(inputs[input_layer if len(inputs) > 1 else 0].dtype)


def _activation(outputs: Any) -> Activation | None:
    """The softmax or sigmoid that made the outputs, to which Keras attaches the logits."""
    logits = getattr(outputs, "_keras_logits", None)
    if logits is None:
        return None
    sigmoid = np.allclose(tf.sigmoid(logits), outputs, atol=1e-3)
    found: Activation = keras.activations.sigmoid if sigmoid else keras.activations.softmax
    return found


def _notes(owner: Any, strip: bool) -> list[str]:
    notes = []
    if strip:
        notes.append("outputs are the logits before the model's last activation")
    half = {layer.compute_dtype for layer in owner._flatten_layers()} & {"float16", "bfloat16"}
    notes += [f"computes in {name}; inputs and answers are float32" for name in sorted(half)]
    return notes
