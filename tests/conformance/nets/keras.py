"""Keras models that the conformance body is run on."""

from __future__ import annotations

from typing import Any

import keras
from conformance.cases import diabetes

layers = keras.layers
_WIDE = {"dtype": "float64"}


def smooth_cnn() -> Any:
    """8x8x2 to 10 probabilities, float64; softplus and average pooling have gradients everywhere."""
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((8, 8, 2), **_WIDE), layers.Conv2D(4, 3, activation="softplus", name="conv", **_WIDE),
        layers.AveragePooling2D(2, name="pool", **_WIDE), layers.Flatten(name="flat", **_WIDE),
        layers.Dense(16, activation="tanh", name="hidden", **_WIDE), layers.Dense(10, activation="softmax", name="scores", **_WIDE),
    ])  # fmt: skip


def residual() -> Any:
    """6x6x3 to 5 logits, float32, with a way around, batch normalisation and dropout; compiled by its owner."""
    keras.utils.set_random_seed(2)
    x = keras.Input((6, 6, 3), name="image")
    h = layers.Conv2D(6, 3, padding="same", name="conv")(x)
    h = layers.Activation("softplus", name="softplus")(layers.BatchNormalization(name="norm")(h))
    h = layers.Concatenate(name="joined")([x, h])
    h = layers.Dropout(0.5, name="dropout")(layers.GlobalAveragePooling2D(name="pool")(h))
    model = keras.Model(x, layers.Dense(5, name="logits", kernel_regularizer="l2")(h))
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def branches() -> Any:
    """Six features, and three that stay as they are, to two heads; the second one has a block of layers below it."""
    keras.utils.set_random_seed(3)
    x, context = keras.Input((6,), name="x", **_WIDE), keras.Input((3,), name="context", **_WIDE)
    block = keras.Sequential([keras.Input((6,), **_WIDE), layers.Dense(8, activation="tanh", name="inner", **_WIDE)], name="block")
    joined = layers.Concatenate(name="joined", **_WIDE)([block(x), layers.Dense(2, name="side", **_WIDE)(context)])
    return keras.Model([x, context], [layers.Dense(2, name="other", **_WIDE)(x), layers.Dense(4, name="head", **_WIDE)(joined)])


class Subclassed(keras.Model):
    """Five features to one probability."""

    def __init__(self) -> None:
        super().__init__(**_WIDE)
        keras.utils.set_random_seed(4)
        self.hidden = layers.Dense(6, activation="tanh", name="hidden", **_WIDE)
        self.head = layers.Dense(1, activation="sigmoid", name="head", **_WIDE)

    def call(self, x: Any) -> Any:
        return self.head(self.hidden(x))


def recurrent() -> Any:
    """Steps of three features to four logits."""
    keras.utils.set_random_seed(5)
    return keras.Sequential(
        [keras.Input((7, 3), **_WIDE), layers.GRU(5, name="gru", **_WIDE), layers.Dense(4, name="head", **_WIDE)]
    )


def regression() -> Any:
    """The features of `diabetes` to one value."""
    keras.utils.set_random_seed(6)
    return keras.Sequential([
        keras.Input((diabetes.NB_FEATURES,), **_WIDE), layers.Dense(8, activation="tanh", name="hidden", **_WIDE),
        layers.Dense(1, name="value", **_WIDE),
    ])  # fmt: skip
