"""A TensorFlow 1 graph for digits, fitted by its session alone."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from digits import data

from gradwire.backends.tensorflow_v1 import Graph

v1 = tf.compat.v1


def _dense(x: Any, units: int, name: str) -> Any:
    with v1.variable_scope(name):
        kernel = v1.get_variable("kernel", (x.shape[1], units), x.dtype, v1.initializers.glorot_normal(seed=len(name)))
        return tf.nn.bias_add(x @ kernel, v1.get_variable("bias", (units,), x.dtype, v1.initializers.zeros()))


def net() -> Graph:
    """64 features to 10 logits."""
    with tf.Graph().as_default():
        x, y = v1.placeholder(tf.float32, (None, 64)), v1.placeholder(tf.int64, (None,))
        logits = _dense(tf.nn.relu(_dense(x, 64, "hidden")), 10, "logits")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
        train = v1.train.AdamOptimizer(3e-3).minimize(loss)
        session = v1.Session()
        session.run(v1.global_variables_initializer())
    return Graph(session, x, logits, labels=y, loss=loss, train=train)


def plain(x: Any, y: Any, held_out: Any) -> Any:
    graph = net()
    for rows in data.batches():
        graph.session.run(graph.train, {graph.input: x[rows], graph.labels: y[rows]})
    return graph.session.run(graph.output, {graph.input: held_out}).argmax(1)


MODELS = {"tensorflow_v1": (dict(backend="tensorflow_v1", factory=net, input_shape=[64]), plain)}
