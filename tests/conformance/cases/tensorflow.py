"""TensorFlow: modules, functions that hold their variables, SavedModels, a train step of the owner's; one output."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from conformance.case import NEURAL, Case, Halve, uniform
from conformance.cases import diabetes


def _variable(seed: int, *shape: int, dtype: str = "float64") -> Any:
    return tf.Variable(np.random.default_rng(seed).normal(0, np.prod(shape[:-1]) ** -0.5, shape).astype(dtype))


class Dense(tf.Module):
    def __init__(self, inputs: int, outputs: int, dtype: str = "float64") -> None:
        super().__init__()
        self.kernel = _variable(outputs, inputs, outputs, dtype=dtype)
        self.bias = tf.Variable(tf.zeros(outputs, dtype))

    def __call__(self, x: Any) -> Any:
        return x @ self.kernel + self.bias


class SmoothCnn(tf.Module):
    """8x8x2 to 10 logits, float64; softplus and average pooling have gradients everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = _variable(1, 3, 3, 2, 4)
        self.hidden = Dense(36, 16)
        self.logits = Dense(16, 10)

    def __call__(self, x: Any) -> Any:
        convolved = tf.nn.softplus(tf.nn.conv2d(x, self.kernel, 1, "VALID"))
        pooled = tf.reshape(tf.nn.avg_pool2d(convolved, 2, 2, "VALID"), (-1, 36))
        return self.logits(tf.tanh(self.hidden(pooled)))


class Mlp(tf.Module):
    """Six features to four logits; compiled by its owner."""

    def __init__(self, outputs: int = 4, inputs: int = 6) -> None:
        super().__init__()
        self.first = Dense(inputs, 8)
        self.last = Dense(8, outputs)

    @tf.function
    def __call__(self, x: Any) -> Any:
        return self.last(tf.tanh(self.first(x)))


def function() -> Callable[..., Any]:
    """As `Mlp`, with the variables where nobody sees them."""
    net = Mlp()
    return tf.function(lambda x: net.last(tf.tanh(net.first(x))))


class Normalised(tf.Module):
    """6x6x3 to 5 logits, float32, with a Keras layer inside, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = _variable(2, 3, 3, 3, 6, dtype="float32")
        self.norm = keras.layers.BatchNormalization()
        self.last = Dense(96, 5, "float32")

    def __call__(self, x: Any, training: bool = False) -> Any:
        h = tf.nn.softplus(self.norm(tf.nn.conv2d(x, self.kernel, 1, "VALID"), training=training))
        flat = tf.reshape(h, (-1, 96))
        return self.last(tf.nn.dropout(flat, 0.5) if training else flat)


def owners_step() -> Callable[..., Any]:
    """A step of gradient descent with momentum, whose velocity only it knows."""
    velocities: list[Any] = []

    @tf.function
    def step(model: Any, x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y, model(x)))
        if not velocities:
            with tf.init_scope():
                velocities.extend(tf.Variable(tf.zeros_like(v), trainable=False) for v in model.trainable_variables)
        gradients = tape.gradient(loss, model.trainable_variables)
        for variable, velocity, gradient in zip(model.trainable_variables, velocities, gradients, strict=True):
            variable.assign_sub(0.1 * velocity.assign(0.9 * velocity + gradient))
        return loss

    return step


_FOLDER = tempfile.TemporaryDirectory()


def _saved_model() -> Path:
    path = Path(_FOLDER.name) / "mlp"
    net = Mlp()
    net(tf.zeros((1, 6), tf.float64))
    exported = net.__call__.get_concrete_function(tf.TensorSpec([None, 6], tf.float64))
    tf.saved_model.save(net, str(path), {"serving_default": exported})
    return path


def _entropy(**args: Any) -> dict[str, Any]:
    return {"path": "keras.losses.SparseCategoricalCrossentropy", "args": {"from_logits": True, **args}}


_ADAM = {"path": "keras.optimizers.Adam", "args": {"learning_rate": 0.01}}

CASES = {
    "tensorflow-cnn": Case(
        dict(backend="tensorflow", factory=SmoothCnn, loss=_entropy(), optimizer=_ADAM, input_shape=[8, 8, 2], nb_classes=10,
             clip_values=[0.0, 1.0], channels_first=False, preprocessing={"mean": 0.4, "std": 0.5}),
        uniform(8, 8, 2), NEURAL, layers=("hidden", "logits"),
    ),
    "tensorflow-float32": Case(
        dict(backend="tensorflow", factory=Normalised, loss=_entropy(), optimizer=_ADAM, input_shape=[6, 6, 3], nb_classes=5,
             channels_first=False, preprocessing={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}),
        uniform(6, 6, 3, dtype="float32"), NEURAL, layers=("norm", "last"),
        # Single precision: the loss is known to 1e-7, so that steps must be large, and differences are good to 1e-3.
        rtol=5e-3, step=2e-2, repeatable=False,
    ),
    "tensorflow-defended": Case(
        dict(backend="tensorflow", factory=Mlp, optimizer=_ADAM, input_shape=[6], nb_classes=4, preprocessing_defences=[Halve],
             preprocessing={"mean": 0.1, "std": 0.7},
             loss={"path": "keras.losses.CategoricalCrossentropy",
                   "args": {"from_logits": True, "reduction": "sum", "label_smoothing": 0.1}}),
        uniform(6), NEURAL, layers=("first", "last"),
    ),
    "tensorflow-train-step": Case(
        dict(backend="tensorflow", factory=Mlp, loss="keras.losses.MeanSquaredError", train_step=owners_step, input_shape=[6],
             nb_classes=4),
        uniform(6), NEURAL, layers=("first", "last"),
    ),
    "tensorflow-function": Case(
        dict(backend="tensorflow", factory=function, loss=_entropy(), optimizer=_ADAM, input_shape=[6], nb_classes=4,
             input_dtype="float64"),
        uniform(6), NEURAL - {"get_activations"},
    ),
    "tensorflow-saved-model": Case(
        dict(backend="tensorflow", saved_model=_saved_model(), loss=_entropy(), optimizer=_ADAM, input_shape=[6], nb_classes=4),
        uniform(6), NEURAL - {"get_activations", "clone_for_refitting"},
    ),
    "tensorflow-binary": Case(
        dict(backend="tensorflow", factory={"path": "conformance.cases.tensorflow:Mlp", "args": {"outputs": 1}}, optimizer=_ADAM,
             loss={"path": "keras.losses.BinaryCrossentropy", "args": {"from_logits": True}}, input_shape=[6], nb_classes=2),
        uniform(6), NEURAL, layers=("first", "last"), single_output=True,
    ),
    "tensorflow-regression": Case(
        dict(backend="tensorflow", factory={"path": "conformance.cases.tensorflow:Mlp", "args": {"outputs": 2, "inputs": 10}},
             optimizer=_ADAM, loss="keras.losses.LogCosh", task="regression", input_shape=[diabetes.NB_FEATURES], nb_classes=2,
             preprocessing={"mean": 0.4, "std": 0.2}),
        diabetes.rows, NEURAL, layers=("first", "last"), targets=diabetes.targets(diabetes.Y_AND_SQUARE),
    ),
}  # fmt: skip
