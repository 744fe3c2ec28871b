"""TensorFlow 2: a ``tf.Module`` in functions that are traced once for any number of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.contenders.contender import Contender, InThisProcess
from benchmarks.frameworks import weights as numbers
from benchmarks.frameworks.setup import CHANNELS_LAST, PLAIN, Setup, channels_last, cnn_keys, factory
from benchmarks.model import NB_CLASSES, Array, Inputs

LOSS = {"path": "keras.losses.SparseCategoricalCrossentropy", "args": {"from_logits": True}}
_FEW_ROWS = 2
"""Up to this number of rows, all class gradients are fastest as one Jacobian."""


def setups(weights: Path) -> list[Setup]:
    """Sets up the CNN."""
    keys = {
        "backend": "tensorflow",
        "factory": factory("benchmarks.frameworks.tensorflow:cnn", weights),
        "loss": LOSS,
        **cnn_keys(channels_last=True),
    }
    return [Setup("tensorflow", keys, partial(_plain, weights), channels_last, "conv1")]


class _Layer(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    def __init__(self, arrays: dict[str, Array], name: str, apply: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.weight, self.bias = tf.Variable(arrays[f"{name}.weight"]), tf.Variable(arrays[f"{name}.bias"])
        self._apply = apply

    def __call__(self, x: Any) -> Any:
        return tf.nn.bias_add(self._apply(x, self.weight), self.bias)


class _Net(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    def __init__(self, arrays: dict[str, Array]) -> None:
        super().__init__()
        convolve = partial(tf.nn.conv2d, strides=1, padding="VALID")
        self.conv1, self.conv2 = (_Layer(arrays, name, convolve) for name in ("conv1", "conv2"))
        self.hidden, self.logits = (_Layer(arrays, name, tf.matmul) for name in ("hidden", "logits"))

    def __call__(self, x: Any) -> Any:
        h = tf.nn.max_pool2d(tf.nn.relu(self.conv1(x)), 2, 2, "VALID")
        h = tf.nn.max_pool2d(tf.nn.relu(self.conv2(h)), 2, 2, "VALID")
        return self.logits(tf.nn.relu(self.hidden(tf.reshape(h, (-1, 512)))))


def cnn(weights: str) -> Any:
    """Makes the model for gradwire's server."""
    return _Net(numbers.channels_last(weights))


@contextmanager
def _plain(weights: Path) -> Iterator[Contender]:
    net = cnn(str(weights))
    yield traced(net, net.conv1, {name: version(name) for name in ("tensorflow-cpu", "numpy")})


def traced(net: Callable[[Any], Any], conv: Callable[[Any], Any], versions: dict[str, str]) -> Contender:
    """Makes the contender of a model that TensorFlow can call, and of its first convolution; Keras models too."""
    plain = _Plain(net, conv)
    return InThisProcess(
        PLAIN,
        {
            "predict": lambda i: plain.predict(i.x).numpy(),
            "loss": lambda i: plain.loss(i.x, i.y).numpy(),
            "loss_gradient": lambda i: plain.loss_gradient(i.x, i.y).numpy(),
            "class_gradient_rows": lambda i: plain.class_gradient_rows(i.x, i.y).numpy()[:, None],
            "class_gradient_all": plain.class_gradient_all,
            "activations_conv": lambda i: plain.activations(i.x).numpy(),
        },
        versions,
    )


class _Plain:
    def __init__(self, net: Callable[[Any], Any], conv: Callable[[Any], Any]) -> None:
        x = tf.TensorSpec((None, *CHANNELS_LAST), tf.float32)
        y = tf.TensorSpec((None,), tf.int64)

        def loss_rows(x: Any, y: Any) -> Any:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(y, net(x))

        def gradient(function: Callable[..., Any], x: Any, *args: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                value = function(x, *args)
            return tape.gradient(value, x)

        def of_each_class(x: Any) -> Any:
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch(x)
                columns = tf.unstack(net(x), NB_CLASSES, axis=1)
            return tf.stack([tape.gradient(column, x) for column in columns], axis=1)

        def jacobian(x: Any) -> Any:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                outputs = net(x)
            return tape.batch_jacobian(outputs, x)

        self.predict = tf.function(net, [x])
        self.loss = tf.function(loss_rows, [x, y])
        self.loss_gradient = tf.function(lambda x, y: gradient(lambda x: tf.reduce_mean(loss_rows(x, y)), x), [x, y])
        self.class_gradient_rows = tf.function(lambda x, y: gradient(lambda x: tf.gather(net(x), y, batch_dims=1), x), [x, y])
        self.activations = tf.function(conv, [x])
        self._of_each_class = tf.function(of_each_class, [x])
        self._jacobian = tf.function(jacobian, [x])

    def class_gradient_all(self, inputs: Inputs) -> Array:
        function = self._jacobian if len(inputs.x) <= _FEW_ROWS else self._of_each_class
        result: Array = function(inputs.x).numpy()
        return result
