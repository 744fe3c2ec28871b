"""The nets of `weights` as functions of JAX."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from one_model import weights

from gradwire.backends.jax import JaxFunction


def _dense(params: Any, x: Any, name: str) -> Any:
    return x @ params[f"{name}.kernel"] + params[f"{name}.bias"]


def _conv_layers(params: Any, x: Any, rows: str = "NCHW") -> dict[str, Any]:
    layout = (rows, "OIHW", "NCHW")
    conv = jax.lax.conv_general_dilated(x, params["conv.kernel"], (1, 1), "VALID", dimension_numbers=layout)
    conv = conv + params["conv.bias"][:, None, None]
    pooled = jnp.tanh(conv).reshape(len(x), 4, 3, 2, 3, 2).mean((3, 5))
    hidden = _dense(params, pooled.reshape(len(x), -1), "hidden")
    return {"conv": conv, "hidden": hidden, "logits": _dense(params, jnp.tanh(hidden), "logits")}


def _dense_layers(params: Any, x: Any) -> dict[str, Any]:
    hidden = _dense(params, x, "hidden")
    return {"hidden": hidden, "logits": _dense(params, jnp.tanh(hidden), "logits")}


def conv(channels_first: bool = True, dtype: str = "float32") -> JaxFunction:
    layers = partial(_conv_layers, rows="NCHW" if channels_first else "NHWC")
    return JaxFunction(lambda params, x: layers(params, x)["logits"], weights.conv_in(dtype), layers=layers)


def dense() -> JaxFunction:
    return JaxFunction(lambda params, x: _dense_layers(params, x)["logits"], dict(weights.DENSE), layers=_dense_layers)


CHANNELS_FIRST = True
_TRAINED = {
    "backend": "jax",
    "loss": "optax.softmax_cross_entropy_with_integer_labels",
    "optimizer": {"path": "optax.sgd", "args": {"learning_rate": 0.1}},
}
CONV = {**_TRAINED, "factory": "one_model.jax_nets:conv", "input_shape": [2, 8, 8], "nb_classes": 5}
DENSE = {**_TRAINED, "factory": "one_model.jax_nets:dense", "input_shape": [6], "nb_classes": 4}
FLOAT64 = {"enable_x64": True}
"""What a configuration of nets in float64 also says."""
LAYERS = {"conv": "conv", "hidden": "hidden", "logits": "logits"}
"""What the layers of `weights` are called here."""
