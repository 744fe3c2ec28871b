"""TensorFlow 1: a graph that is built once, and a session that runs its operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.contenders.contender import Contender, InThisProcess
from benchmarks.frameworks import weights as numbers
from benchmarks.frameworks.setup import CHANNELS_LAST, PLAIN, Setup, channels_last, cnn_keys, factory
from benchmarks.model import NB_CLASSES, Array, Inputs
from gradwire.backends.tensorflow_v1 import Graph

v1 = tf.compat.v1

CONV_LAYER = "conv1/outputs"
_FEW_ROWS = 2
"""Up to this number of rows, all class gradients are fastest as one gradient of copied rows."""


def setups(weights: Path) -> list[Setup]:
    """Sets up the CNN."""
    keys = {
        "backend": "tensorflow_v1",
        "factory": factory("benchmarks.frameworks.tensorflow_v1:cnn", weights),
        "loss_reduction": "mean",
        **cnn_keys(channels_last=True),
    }
    return [Setup("tensorflow_v1", keys, partial(_plain, weights), channels_last, CONV_LAYER)]


def cnn(weights: str) -> Graph:
    """Makes the model for gradwire's server."""
    arrays = numbers.channels_last(weights)
    with tf.Graph().as_default():
        x, y = v1.placeholder(tf.float32, (None, *CHANNELS_LAST)), v1.placeholder(tf.int64, (None,))

        def layer(h: Any, name: str) -> Any:
            weight, bias = (v1.get_variable(f"{name}/{kind}", initializer=arrays[f"{name}.{kind}"]) for kind in ("weight", "bias"))
            product = tf.nn.conv2d(h, weight, 1, "VALID") if weight.shape.rank == 4 else h @ weight
            return tf.nn.bias_add(product, bias, name=f"{name}/outputs")

        h = tf.nn.max_pool2d(tf.nn.relu(layer(x, "conv1")), 2, 2, "VALID")
        h = tf.nn.max_pool2d(tf.nn.relu(layer(h, "conv2")), 2, 2, "VALID")
        logits = layer(tf.nn.relu(layer(tf.reshape(h, (-1, 512)), "hidden")), "logits")
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
        session = v1.Session(config=v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1))
        session.run(v1.global_variables_initializer())
    return Graph(session, x, logits, labels=y, loss=loss)


@contextmanager
def _plain(weights: Path) -> Iterator[Contender]:
    plain = _Plain(cnn(str(weights)))
    yield InThisProcess(
        PLAIN,
        {
            "predict": lambda i: plain.run(plain.outputs, i.x),
            "loss": lambda i: plain.run(plain.loss, i.x, i.y),
            "loss_gradient": lambda i: plain.run(plain.loss_gradient, i.x, i.y),
            "class_gradient_rows": lambda i: plain.run(plain.class_gradient_rows, i.x, i.y)[:, None],
            "class_gradient_all": plain.class_gradient_all,
            "activations_conv": lambda i: plain.run(plain.conv, i.x),
        },
        {name: version(name) for name in ("tensorflow-cpu", "numpy")},
    )
    plain.session.close()


class _Plain:
    def __init__(self, graph: Graph) -> None:
        self.session, self._x, self._y = graph.session, graph.input, graph.labels
        self.outputs, self.loss = graph.output, graph.loss
        with self.session.graph.as_default():
            self.conv = self.session.graph.get_tensor_by_name(f"{CONV_LAYER}:0")
            self.loss_gradient = v1.gradients(tf.reduce_mean(self.loss), self._x)[0]
            self.class_gradient_rows = v1.gradients(tf.gather(self.outputs, self._y, batch_dims=1), self._x)[0]
            columns = tf.unstack(self.outputs, NB_CLASSES, axis=1)
            self._of_each_class = tf.stack([v1.gradients(column, self._x)[0] for column in columns], axis=1)

    def run(self, what: Any, x: Array, y: Array | None = None) -> Array:
        result: Array = self.session.run(what, {self._x: x} if y is None else {self._x: x, self._y: y})
        return result

    def class_gradient_all(self, inputs: Inputs) -> Array:
        x = inputs.x
        if len(x) > _FEW_ROWS:
            return self.run(self._of_each_class, x)
        classes = np.tile(np.arange(NB_CLASSES), len(x))
        return self.run(self.class_gradient_rows, np.repeat(x, NB_CLASSES, axis=0), classes).reshape(-1, NB_CLASSES, *x.shape[1:])
