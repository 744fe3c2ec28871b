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
    dtype = next(iter(arrays.values())).dtype
    block.cast(dtype)
    block(mx.nd.zeros((1, *input_shape), dtype=dtype))
    for name, layer in layers:
        if f"{name}.bias" in arrays:
            kernel = arrays[f"{name}.kernel"]
            turned = kernel if kernel.ndim == 4 else np.ascontiguousarray(kernel.T)
            layer.weight.set_data(mx.nd.array(turned, dtype=dtype))
            layer.bias.set_data(mx.nd.array(arrays[f"{name}.bias"], dtype=dtype))
    return block


def conv(channels_first: bool = True, dtype: str = "float32") -> Any:
    from mxnet.gluon import nn

    turn = ("turn", nn.HybridLambda(lambda ops, x: ops.transpose(x, axes=(0, 3, 1, 2))))
    layers = [
        *([] if channels_first else [turn]),
        ("conv", nn.Conv2D(4, 3)), ("tanh", nn.Activation("tanh")), ("pool", nn.AvgPool2D(2)), ("flat", nn.Flatten()),
        ("hidden", nn.Dense(16)), ("tanh2", nn.Activation("tanh")), ("logits", nn.Dense(5)),
    ]  # fmt: skip
    shape = weights.CONV_INPUT_SHAPE
    return _with_weights(layers, weights.conv_in(dtype), shape if channels_first else (*shape[1:], shape[0]))


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
