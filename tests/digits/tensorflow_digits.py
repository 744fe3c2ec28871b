"""A TensorFlow module for digits, fitted by TensorFlow alone."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
import tensorflow_owners as owners
from digits import data


class Net(tf.Module):
    """64 features to 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = owners.Dense(64, 32, "float32"), owners.Dense(32, 10, "float32")

    def __call__(self, x: Any) -> Any:
        return self.last(tf.nn.relu(self.first(x)))


def plain(x: Any, y: Any, held_out: Any) -> Any:
    net, optimizer = Net(), keras.optimizers.Adam(0.01)

    @tf.function(reduce_retracing=True)
    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, net(x)))
        optimizer.apply_gradients(zip(tape.gradient(loss, net.trainable_variables), net.trainable_variables, strict=True))

    for rows in data.batches():
        step(x[rows], y[rows])
    return net(tf.constant(held_out)).numpy().argmax(1)


MODELS = {
    "tensorflow": (
        dict(backend="tensorflow", factory=Net, input_shape=[64],
             loss={"path": "keras.losses.SparseCategoricalCrossentropy", "args": {"from_logits": True}},
             optimizer={"path": "keras.optimizers.Adam", "args": {"learning_rate": 0.01}}),
        plain,
    )
}  # fmt: skip
