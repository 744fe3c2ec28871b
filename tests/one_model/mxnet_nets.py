"""The nets of `weights` in MXNet. MXNet is imported when a net is made: the tests' own environment does not have it."""

from __future__ import annotations

from typing import Any

import numpy as np
from one_model import weights


def _with_weights(layers: list[tuple[str, Any]], arrays: dict[str, Any], input_shape: tuple[int, ...]) -> Any:
    import mxnet as mx

    block = mx.gluon.nn.HybridSequential()
    for name, layer in layers:
        block.register_child(layer, name)
    block.initialize()
    block(mx.nd.zeros((1, *input_shape)))
    for name, layer in layers:
        if f"{name}.bias" in arrays:
            kernel = arrays[f"{name}.kernel"]
            layer.weight.set_data(mx.nd.array(kernel if kernel.ndim == 4 else np.ascontiguousarray(kernel.T)))
            layer.bias.set_data(mx.nd.array(arrays[f"{name}.bias"]))
    return block


def conv() -> Any:
    from mxnet.gluon import nn

    layers = [
        ("conv", nn.Conv2D(4, 3)), ("tanh", nn.Activation("tanh")), ("pool", nn.AvgPool2D(2)), ("flat", nn.Flatten()),
        ("hidden", nn.Dense(16)), ("tanh2", nn.Activation("tanh")), ("logits", nn.Dense(5)),
    ]  # fmt: skip
    return _with_weights(layers, weights.CONV, weights.CONV_INPUT_SHAPE)


def dense() -> Any:
    from mxnet.gluon import nn

    layers = [("hidden", nn.Dense(8)), ("tanh", nn.Activation("tanh")), ("logits", nn.Dense(4))]
    return _with_weights(layers, weights.DENSE, weights.DENSE_INPUT_SHAPE)


CHANNELS_FIRST = True
_TRAINED = {
    "backend": "mxnet",
    "loss": "mxnet.gluon.loss.SoftmaxCrossEntropyLoss",
    "optimizer": {"path": "sgd", "args": {"learning_rate": 0.1}},
}
CONV = {**_TRAINED, "factory": "one_model.mxnet_nets:conv", "input_shape": [2, 8, 8], "nb_classes": 5}
DENSE = {**_TRAINED, "factory": "one_model.mxnet_nets:dense", "input_shape": [6], "nb_classes": 4}
LAYERS = {"conv": "conv", "hidden": "hidden", "logits": "logits"}
"""What the layers of `weights` are called here."""
