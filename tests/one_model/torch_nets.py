"""The nets of `weights` in torch."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from one_model import weights
from torch import nn


def _with_weights(module: nn.Module, arrays: dict[str, Any]) -> nn.Module:
    with torch.no_grad():
        for name, layer in module.named_children():
            if f"{name}.bias" in arrays:
                kernel = arrays[f"{name}.kernel"]
                layer.weight.copy_(torch.from_numpy(kernel if kernel.ndim == 4 else np.ascontiguousarray(kernel.T)))
                layer.bias.copy_(torch.from_numpy(arrays[f"{name}.bias"]))
    return module


class Turn(nn.Module):
    """Channels last to channels first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 1, 2)


def conv(channels_first: bool = True, dtype: str = "float32") -> nn.Module:
    layers = {
        **({} if channels_first else {"turn": Turn()}),
        "conv": nn.Conv2d(2, 4, 3), "tanh": nn.Tanh(), "pool": nn.AvgPool2d(2), "flat": nn.Flatten(),
        "hidden": nn.Linear(36, 16), "tanh2": nn.Tanh(), "logits": nn.Linear(16, 5),
    }  # fmt: skip
    module = nn.Sequential(OrderedDict(layers)).to(getattr(torch, dtype))
    return _with_weights(module, weights.conv_in(dtype))


def dense() -> nn.Module:
    layers = {"hidden": nn.Linear(6, 8), "tanh": nn.Tanh(), "logits": nn.Linear(8, 4)}
    return _with_weights(nn.Sequential(OrderedDict(layers)), weights.DENSE)


CHANNELS_FIRST = True
_TRAINED = {"backend": "torch", "loss": "torch.nn.CrossEntropyLoss", "optimizer": {"path": "torch.optim.SGD", "args": {"lr": 0.1}}}
CONV = {**_TRAINED, "factory": "one_model.torch_nets:conv", "input_shape": [2, 8, 8], "nb_classes": 5}
DENSE = {**_TRAINED, "factory": "one_model.torch_nets:dense", "input_shape": [6], "nb_classes": 4}
LAYERS = {"conv": "conv", "hidden": "hidden", "logits": "logits"}
"""What the layers of `weights` are called here."""
