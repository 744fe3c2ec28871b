"""A Keras model for digits, fitted by Keras alone."""

from __future__ import annotations

from typing import Any

import keras
from digits import data


def net() -> Any:
    """8x8x1 to 10 logits."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential([
        keras.Input((8, 8, 1)), layers.Conv2D(8, 3, activation="relu"), layers.Flatten(), layers.Dense(32, activation="relu"),
        layers.Dense(10),
    ])  # fmt: skip


def plain(x: Any, y: Any, held_out: Any) -> Any:
    model = net()
    model.compile(optimizer=keras.optimizers.Adam(0.003), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for rows in data.batches():
        model.train_on_batch(x[rows], y[rows])
    return model(held_out).numpy().argmax(1)


MODELS = {
    "keras": (
        dict(backend="keras", factory=net, input_shape=[8, 8, 1],
             loss={"path": "keras.losses.SparseCategoricalCrossentropy", "args": {"from_logits": True}},
             optimizer={"path": "keras.optimizers.Adam", "args": {"learning_rate": 0.003}}),
        plain,
    )
}  # fmt: skip
