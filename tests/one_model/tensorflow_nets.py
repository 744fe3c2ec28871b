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
    def __init__(self, channels_first: bool = False, dtype: str = "float32") -> None:
        super().__init__()
        arrays = weights.conv_in(dtype)
        self.conv = Convolution(arrays, "conv")
        self.hidden = Dense(arrays, "hidden")
        self.logits = Dense(arrays, "logits")
        self._turned = channels_first

    def __call__(self, x: Any) -> Any:
        images = tf.transpose(x, (0, 2, 3, 1)) if self._turned else x
        pooled = tf.nn.avg_pool2d(tf.tanh(self.conv(images)), 2, 2, "VALID")
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
