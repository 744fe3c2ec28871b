"""Keras: sequential, functional and subclassed models, several inputs and outputs, recurrent, one output."""

from __future__ import annotations

from typing import Any

import keras
from conformance.case import NEURAL, Case, Halve, uniform
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


def _entropy(**args: Any) -> dict[str, Any]:
    return {"path": "keras.losses.SparseCategoricalCrossentropy", "args": args}


_ADAM = {"path": "keras.optimizers.Adam", "args": {"learning_rate": 0.01}}

CASES = {
    "keras-cnn": Case(
        dict(backend="keras", factory=smooth_cnn, loss=_entropy(), optimizer=_ADAM, input_shape=[8, 8, 2], nb_classes=10,
             clip_values=[0.0, 1.0], channels_first=False, preprocessing={"mean": 0.4, "std": 0.5}),
        uniform(8, 8, 2), NEURAL, layers=("conv", "pool", "flat", "hidden", "scores"),
    ),
    "keras-residual": Case(
        dict(backend="keras", factory=residual, input_shape=[6, 6, 3], nb_classes=5, channels_first=False,
             preprocessing={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}),
        uniform(6, 6, 3, dtype="float32"), NEURAL,
        layers=("conv", "norm", "softplus", "joined", "pool", "dropout", "logits"),
        # Single precision: the loss is known to 1e-7, so that steps must be large, and differences are good to 1e-3.
        rtol=5e-3, step=2e-2,
    ),
    "keras-branches": Case(
        dict(backend="keras", factory=branches, loss=_entropy(from_logits=True, reduction="sum"), optimizer=_ADAM, input_shape=[6],
             nb_classes=4, output_layer=1, other_inputs={"context": [0.1, -0.2, 0.3]}, preprocessing_defences=[Halve],
             preprocessing={"mean": 0.1, "std": 0.7}),
        uniform(6), NEURAL, layers=("block", "side", "joined", "head"),
    ),
    "keras-binary": Case(
        dict(backend="keras", factory=Subclassed, loss="keras.losses.BinaryCrossentropy", optimizer=_ADAM, input_shape=[5],
             nb_classes=2),
        uniform(5), NEURAL, layers=("hidden", "head"), single_output=True,
    ),
    "keras-recurrent": Case(
        dict(backend="keras", factory=recurrent, loss=_entropy(from_logits=True), optimizer=_ADAM, input_shape=[7, 3],
             nb_classes=4),
        uniform(7, 3), NEURAL, layers=("gru", "head"),
    ),
    "keras-regression": Case(
        dict(backend="keras", factory=regression, loss="keras.losses.MeanSquaredError", optimizer=_ADAM, task="regression",
             input_shape=[diabetes.NB_FEATURES], nb_classes=1, preprocessing={"mean": 0.4, "std": 0.2}),
        diabetes.rows, NEURAL, layers=("hidden", "value"), targets=diabetes.targets(diabetes.Y),
    ),
}  # fmt: skip
