"""The nets of `weights` in Keras."""

from __future__ import annotations

from typing import Any

import keras
from one_model import weights


def _with_weights(model: Any, arrays: dict[str, Any]) -> Any:
    for layer in model.layers:
        if layer.weights:
            kernel = arrays[f"{layer.name}.kernel"]
            layer.set_weights([kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel, arrays[f"{layer.name}.bias"]])
    return model


def conv(channels_first: bool = False, dtype: str = "float32") -> Any:
    layers, d = keras.layers, {"dtype": dtype}
    rows = keras.Input((2, 8, 8) if channels_first else (8, 8, 2), **d)
    model = keras.Sequential([
        rows, *([layers.Permute((2, 3, 1), **d)] if channels_first else []),
        layers.Conv2D(4, 3, name="conv", **d), layers.Activation("tanh", **d), layers.AveragePooling2D(2, **d),
        layers.Permute((3, 1, 2), **d), layers.Flatten(**d), layers.Dense(16, name="hidden", **d), layers.Activation("tanh", **d),
        layers.Dense(5, name="logits", **d),
    ])  # fmt: skip
    return _with_weights(model, weights.conv_in(dtype))


def dense() -> Any:
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((6,)), layers.Dense(8, name="hidden"), layers.Activation("tanh"), layers.Dense(4, name="logits"),
    ])  # fmt: skip
    return _with_weights(model, weights.DENSE)


CHANNELS_FIRST = False
_TRAINED = {
    "backend": "keras",
    "loss": {"path": "keras.losses.SparseCategoricalCrossentropy", "args": {"from_logits": True}},
    "optimizer": {"path": "keras.optimizers.SGD", "args": {"learning_rate": 0.1}},
}
CONV = {**_TRAINED, "factory": "one_model.keras_nets:conv", "input_shape": [8, 8, 2], "nb_classes": 5}
DENSE = {**_TRAINED, "factory": "one_model.keras_nets:dense", "input_shape": [6], "nb_classes": 4}
LAYERS = {"conv": "conv", "hidden": "hidden", "logits": "logits"}
"""What the layers of `weights` are called here."""
