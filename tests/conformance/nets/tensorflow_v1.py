"""Graphs of TensorFlow 1 that the conformance body is run on."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from conformance.cases import diabetes

from gradwire.backends.tensorflow_v1 import Graph

v1 = tf.compat.v1


def _weight(name: str, *shape: int, dtype: Any = tf.float64) -> Any:
    return v1.get_variable(name, shape, dtype, v1.initializers.glorot_normal(seed=len(name)))


def _dense(x: Any, units: int, name: str) -> Any:
    with v1.variable_scope(name):
        product = x @ _weight("kernel", x.shape[1], units, dtype=x.dtype)
        bias = v1.get_variable("bias", (units,), x.dtype, v1.initializers.constant(0.1))
        return tf.nn.bias_add(product, bias)


def _graph(x: Any, logits: Any, labels: Any, loss: Any, optimizer: Any, **more: Any) -> Graph:
    updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
    with tf.control_dependencies(updates):
        train = optimizer.minimize(tf.reduce_mean(loss))
    session = v1.Session()
    session.run(v1.global_variables_initializer())
    return Graph(session, x, logits, labels=labels, loss=loss, train=train, **more)


def smooth_cnn() -> Graph:
    """8x8x2 to 10 logits, float64; the loss is one number, the mean over rows."""
    with tf.Graph().as_default():
        x, y = v1.placeholder(tf.float64, (None, 8, 8, 2)), v1.placeholder(tf.float64, (None, 10))
        h = tf.nn.softplus(tf.nn.conv2d(x, _weight("conv/kernel", 3, 3, 2, 4), 1, "VALID", name="conv/product"), "softplus")
        h = tf.reshape(tf.nn.avg_pool2d(h, 2, 2, "VALID", name="pool"), (-1, 36), name="flat")
        logits = _dense(tf.tanh(_dense(h, 16, "hidden"), name="tanh"), 10, "logits")
        loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=y, logits=logits))
        return _graph(x, logits, y, loss, v1.train.AdamOptimizer(0.01))


def with_learning_phase() -> Graph:
    """6x6x3 to 5 logits, float32, with batch normalisation, dropout and weight decay; reference variables."""
    with tf.Graph().as_default(), v1.variable_scope("net", use_resource=False):
        x, y = v1.placeholder(tf.float32, (None, 6, 6, 3)), v1.placeholder(tf.float32, (None, 5))
        learning = v1.placeholder(tf.bool, ())
        h = tf.nn.conv2d(x, _weight("kernel", 3, 3, 3, 6, dtype=tf.float32), 1, "VALID")
        h = tf.nn.softplus(_normalised(h, learning, "norm"))
        h = tf.nn.dropout(tf.reshape(h, (-1, 96)), rate=tf.where(learning, 0.5, 0.0))
        logits = _dense(tf.tanh(_dense(h, 12, "hidden")), 5, "logits")
        v1.losses.softmax_cross_entropy(y, logits)
        v1.losses.add_loss(1e-3 * tf.nn.l2_loss(v1.trainable_variables()[0]), v1.GraphKeys.REGULARIZATION_LOSSES)
        return _graph(x, logits, y, v1.losses.get_total_loss(), v1.train.AdamOptimizer(0.01), learning=learning)


def _normalised(h: Any, learning: Any, name: str) -> Any:
    with v1.variable_scope(name):
        moving_mean = v1.get_variable("mean", h.shape[-1:], initializer=v1.initializers.zeros(), trainable=False)
        moving_variance = v1.get_variable("variance", h.shape[-1:], initializer=v1.initializers.ones(), trainable=False)
        batch_mean, batch_variance = tf.nn.moments(h, (0, 1, 2))
        for moving, batch in ((moving_mean, batch_mean), (moving_variance, batch_variance)):
            v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, v1.assign(moving, 0.9 * moving + 0.1 * batch))
        mean = tf.where(learning, batch_mean, moving_mean)
        variance = tf.where(learning, batch_variance, moving_variance)
        return tf.nn.batch_normalization(h, mean, variance, None, None, 1e-3)


def mlp_summed() -> Graph:
    """Six features to 4 logits, float64; the loss is one number, the sum over rows."""
    with tf.Graph().as_default():
        x, y = v1.placeholder(tf.float64, (None, 6)), v1.placeholder(tf.float64, (None, 4))
        logits = _dense(tf.tanh(_dense(x, 8, "hidden"), name="tanh"), 4, "logits")
        loss = tf.reduce_sum(-tf.nn.log_softmax(logits) * y)
        return _graph(x, logits, y, loss, v1.train.MomentumOptimizer(0.01, 0.9))


def binary() -> Graph:
    """Five features to one logit; losses a row."""
    with tf.Graph().as_default():
        x, y = v1.placeholder(tf.float64, (None, 5)), v1.placeholder(tf.float64, (None, 1))
        logit = _dense(tf.tanh(_dense(x, 6, "hidden"), name="tanh"), 1, "logit")
        loss = tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logit)[:, 0]
        return _graph(x, logit, y, loss, v1.train.AdamOptimizer(0.01))


def regression() -> Graph:
    """The features of `diabetes` to one value, float64; the loss is one number, the mean over rows."""
    with tf.Graph().as_default():
        x, y = v1.placeholder(tf.float64, (None, diabetes.NB_FEATURES)), v1.placeholder(tf.float64, (None, 1))
        value = _dense(tf.tanh(_dense(x, 8, "hidden"), name="tanh"), 1, "value")
        return _graph(x, value, y, tf.reduce_mean((value - y) ** 2), v1.train.AdamOptimizer(0.01))
