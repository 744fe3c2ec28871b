"""The nets of `weights` as TensorFlow modules."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from one_model import weights


class Dense(tf.Module):
    def __init__(self, arrays: dict[str, Any], name: str) -> None:
        super().__init__()
        self.kernel, self.bias = tf.Variable(arrays[f"{name}.kernel"]), tf.Variable(arrays[f"{name}.bias"])

    def __call__(self, x: Any) -> Any:
        return x @ self.kernel + self.bias


class Convolution(tf.Module):
    def __init__(self, arrays: dict[str, Any], name: str) -> None:
        super().__init__()
        self.kernel = tf.Variable(arrays[f"{name}.kernel"].transpose(2, 3, 1, 0))
        self.bias = tf.Variable(arrays[f"{name}.bias"])

    def __call__(self, x: Any) -> Any:
        return tf.nn.conv2d(x, self.kernel, 1, "VALID") + self.bias


class Conv(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = Convolution(weights.CONV, "conv")
        self.hidden = Dense(weights.CONV, "hidden")
        self.logits = Dense(weights.CONV, "logits")

    def __call__(self, x: Any) -> Any:
        pooled = tf.nn.avg_pool2d(tf.tanh(self.conv(x)), 2, 2, "VALID")
        flat = tf.reshape(tf.transpose(pooled, (0, 3, 1, 2)), (-1, 36))
        return self.logits(tf.tanh(self.hidden(flat)))


class Two(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = Dense(weights.DENSE, "hidden")
        self.logits = Dense(weights.DENSE, "logits")

    def __call__(self, x: Any) -> Any:
        return self.logits(tf.tanh(self.hidden(x)))


CHANNELS_FIRST = False
_TRAINED = {
    "backend": "tensorflow",
    "loss": {"path": "keras.losses.SparseCategoricalCrossentropy", "args": {"from_logits": True}},
    "optimizer": {"path": "keras.optimizers.SGD", "args": {"learning_rate": 0.1}},
}
CONV = {**_TRAINED, "factory": "one_model.tensorflow_nets:Conv", "input_shape": [8, 8, 2], "nb_classes": 5}
DENSE = {**_TRAINED, "factory": "one_model.tensorflow_nets:Two", "input_shape": [6], "nb_classes": 4}
LAYERS = {"conv": "conv", "hidden": "hidden", "logits": "logits"}
"""What the layers of `weights` are called here."""
