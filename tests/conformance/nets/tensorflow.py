"""TensorFlow models that the conformance body is run on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf


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


def save_mlp(path: Path) -> None:
    """Writes a SavedModel of `Mlp`."""
    net = Mlp()
    net(tf.zeros((1, 6), tf.float64))
    exported = net.__call__.get_concrete_function(tf.TensorSpec([None, 6], tf.float64))
    tf.saved_model.save(net, str(path), {"serving_default": exported})
