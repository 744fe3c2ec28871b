"""Keras 3 on TensorFlow: a functional model, called in functions that are traced once for any number of rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from benchmarks.contenders.contender import Contender
from benchmarks.frameworks import weights as numbers
from benchmarks.frameworks.setup import CHANNELS_LAST, Setup, channels_last, cnn_keys, factory
from benchmarks.frameworks.tensorflow import LOSS, traced
from benchmarks.model import NB_CLASSES


def setups(weights: Path) -> list[Setup]:
    """Sets up the CNN."""
    keys = {
        "backend": "keras",
        "factory": factory("benchmarks.frameworks.keras:cnn", weights),
        "loss": LOSS,
        **cnn_keys(channels_last=True),
    }
    return [Setup("keras", keys, partial(_plain, weights), channels_last, "conv1")]


def cnn(weights: str) -> Any:
    """Makes the model for gradwire's server."""
    layers = keras.layers
    inputs = keras.Input(CHANNELS_LAST)
    h = layers.MaxPooling2D()(layers.ReLU()(layers.Conv2D(16, 5, name="conv1")(inputs)))
    h = layers.MaxPooling2D()(layers.ReLU()(layers.Conv2D(32, 5, name="conv2")(h)))
    h = layers.ReLU()(layers.Dense(128, name="hidden")(layers.Flatten()(h)))
    model = keras.Model(inputs, layers.Dense(NB_CLASSES, name="logits")(h))
    arrays = numbers.channels_last(weights)
    for layer in model.layers:
        if layer.weights:
            layer.set_weights([arrays[f"{layer.name}.weight"], arrays[f"{layer.name}.bias"]])
    return model


@contextmanager
def _plain(weights: Path) -> Iterator[Contender]:
    model = cnn(str(weights))
    versions = {name: version(name) for name in ("keras", "tensorflow-cpu", "numpy")}
    # `tf.function` converts the arrays; `model.predict` would wrap the call once more.
    yield traced(lambda x: model(x, training=False), lambda x: model.get_layer("conv1")(tf.convert_to_tensor(x)), versions)
