"""JAX: a pure function of weights and rows, compiled once for each number of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.contenders.contender import Contender, InThisProcess
from benchmarks.frameworks import weights as numbers
from benchmarks.frameworks.setup import PLAIN, Setup, channels_last, cnn_keys, factory
from benchmarks.model import NB_CLASSES, Array
from gradwire.backends.jax import JaxFunction


def setups(weights: Path) -> list[Setup]:
    """Sets up the CNN."""
    keys = {
        "backend": "jax",
        "factory": factory("benchmarks.frameworks.jax:cnn", weights),
        "loss": "optax.softmax_cross_entropy_with_integer_labels",
        **cnn_keys(channels_last=True),
    }
    return [Setup("jax", keys, partial(_plain, weights), channels_last, "conv1")]


def _conv(params: Any, x: Any, name: str) -> Any:
    layout = ("NHWC", "HWIO", "NHWC")
    convolved = jax.lax.conv_general_dilated(x, params[f"{name}.weight"], (1, 1), "VALID", dimension_numbers=layout)
    return convolved + params[f"{name}.bias"]


def _pooled(x: Any) -> Any:
    """Pools as Flax does."""
    return jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _dense(params: Any, x: Any, name: str) -> Any:
    return x @ params[f"{name}.weight"] + params[f"{name}.bias"]


def _net(params: Any, x: Any) -> Any:
    h = _pooled(_conv(params, _pooled(_conv(params, x, "conv1")), "conv2"))
    h = jax.nn.relu(_dense(params, h.reshape(-1, 512), "hidden"))
    return _dense(params, h, "logits")


def _first(params: Any, x: Any) -> Any:
    return _conv(params, x, "conv1")


def _params(weights: str | Path) -> dict[str, Array]:
    return {name: array for name, array in numbers.channels_last(weights).items() if "." in name}


def cnn(weights: str) -> JaxFunction:
    """Makes the model for gradwire's server."""
    return JaxFunction(_net, _params(weights), layers={"conv1": _first})


@contextmanager
def _plain(weights: Path) -> Iterator[Contender]:
    params = jax.device_put(_params(weights))

    def loss_rows(params: Any, x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(_net(params, x), y)

    def loss_gradient(params: Any, x: Any, y: Any) -> Any:
        return jax.grad(lambda x: loss_rows(params, x, y).mean())(x)

    def class_gradient_rows(params: Any, x: Any, y: Any) -> Any:
        return jax.grad(lambda x: jnp.take_along_axis(_net(params, x), y[:, None], axis=1).sum())(x)[:, None]

    def class_gradient_all(params: Any, x: Any) -> Any:
        """Takes one forward pass and one backward pass for each class: the fastest way, except for one row."""
        outputs, pull = jax.vjp(lambda x: _net(params, x), x)
        return jnp.stack([pull(jnp.zeros_like(outputs).at[:, k].set(1))[0] for k in range(NB_CLASSES)], axis=1)

    def compiled(function: Callable[..., Any]) -> Callable[..., Array]:
        program = jax.jit(function)
        return lambda *args: np.asarray(program(params, *args))

    predict, first, every = compiled(_net), compiled(_first), compiled(class_gradient_all)
    loss, gradient, of_rows = compiled(loss_rows), compiled(loss_gradient), compiled(class_gradient_rows)
    yield InThisProcess(
        PLAIN,
        {
            "predict": lambda i: predict(i.x),
            "loss": lambda i: loss(i.x, i.y),
            "loss_gradient": lambda i: gradient(i.x, i.y),
            "class_gradient_rows": lambda i: of_rows(i.x, i.y),
            "class_gradient_all": lambda i: every(i.x),
            "activations_conv": lambda i: first(i.x),
        },
        {name: version(name) for name in ("jax", "jaxlib", "optax", "numpy")},
    )
