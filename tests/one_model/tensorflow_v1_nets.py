"""The nets of `weights` as TensorFlow 1 graphs. The loss is one number, the mean over rows, as much code of the time has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from one_model import weights

from gradwire.backends.tensorflow_v1 import Graph

v1 = tf.compat.v1


def _graph(
    shape: tuple[int, ...], nb_classes: int, arrays: dict[str, Any], net: Callable[[Any, Callable[[str], Any]], Any]
) -> Graph:
    graph = tf.Graph()
    with graph.as_default():
        dtype = next(iter(arrays.values())).dtype
        x = v1.placeholder(dtype, (None, *shape))
        y = v1.placeholder(dtype, (None, nb_classes))

        def weight(name: str) -> Any:
            array = arrays[name]
            return v1.get_variable(name.replace(".", "/"), initializer=array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)

        logits = net(x, weight)
        loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=y, logits=logits))
        train = v1.train.GradientDescentOptimizer(0.1).minimize(loss)
        session = v1.Session()
        session.run(v1.global_variables_initializer())
    return Graph(session, x, logits, labels=y, loss=loss, train=train)


def conv(channels_first: bool = False, dtype: str = "float32") -> Graph:
    def net(x: Any, weight: Callable[[str], Any]) -> Any:
        images = tf.transpose(x, (0, 2, 3, 1), name="turned") if channels_first else x
        h = tf.nn.bias_add(tf.nn.conv2d(images, weight("conv.kernel"), 1, "VALID"), weight("conv.bias"), name="conv/outputs")
        h = tf.nn.avg_pool2d(tf.tanh(h, name="tanh"), 2, 2, "VALID", name="pool")
        h = tf.reshape(tf.transpose(h, (0, 3, 1, 2), name="flat/turned"), (-1, 36), name="flat/outputs")
        h = tf.tanh(tf.add(h @ weight("hidden.kernel"), weight("hidden.bias"), name="hidden/outputs"), name="tanh2")
        return tf.add(h @ weight("logits.kernel"), weight("logits.bias"), name="logits/outputs")

    height_width_channels = (*weights.CONV_INPUT_SHAPE[1:], weights.CONV_INPUT_SHAPE[0])
    shape = weights.CONV_INPUT_SHAPE if channels_first else height_width_channels
    return _graph(shape, weights.CONV_CLASSES, weights.conv_in(dtype), net)


def dense() -> Graph:
    def net(x: Any, weight: Callable[[str], Any]) -> Any:
        h = tf.tanh(tf.add(x @ weight("hidden.kernel"), weight("hidden.bias"), name="hidden/outputs"), name="tanh")
        return tf.add(h @ weight("logits.kernel"), weight("logits.bias"), name="logits/outputs")

    return _graph(weights.DENSE_INPUT_SHAPE, weights.DENSE_CLASSES, weights.DENSE, net)


CHANNELS_FIRST = False
CONV = {"backend": "tensorflow_v1", "factory": "one_model.tensorflow_v1_nets:conv", "input_shape": [8, 8, 2], "nb_classes": 5}
DENSE = {"backend": "tensorflow_v1", "factory": "one_model.tensorflow_v1_nets:dense", "input_shape": [6], "nb_classes": 4}
LAYERS = {"conv": "conv", "hidden": "hidden", "logits": "logits"}
"""What the layers of `weights` are called here."""
