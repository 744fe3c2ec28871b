"""A function of JAX and a Flax module for digits, fitted by optax alone."""

from __future__ import annotations

from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import jax_models
import numpy as np
import optax
from digits import data


def function() -> Any:
    """64 features to 10 logits: ``(predict, params)``."""
    return jax_models.mlp(64, 10, nb_hidden=32, dtype="float32")


class Net(linen.Module):
    """As `function`, in Flax."""

    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(10)(linen.relu(linen.Dense(32)(x)))


def module() -> Any:
    """``(module, variables)``."""
    net = Net()
    return net, net.init(jax.random.key(0), jnp.zeros((1, 64), jnp.float32))


def _fitted(predict: Any, params: Any, x: Any, y: Any, held_out: Any) -> Any:
    optimizer = optax.adam(0.01)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        gradient = jax.grad(lambda p: optax.softmax_cross_entropy_with_integer_labels(predict(p, x), y).mean())(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for rows in data.batches():
        params, state = step(params, state, x[rows], y[rows])
    return np.asarray(predict(params, held_out)).argmax(1)


def plain_function(x: Any, y: Any, held_out: Any) -> Any:
    return _fitted(*function(), x, y, held_out)


def plain_module(x: Any, y: Any, held_out: Any) -> Any:
    net, variables = module()
    return _fitted(net.apply, variables, x, y, held_out)


_TRAINED = {
    "backend": "jax",
    "input_shape": [64],
    "loss": "optax.softmax_cross_entropy_with_integer_labels",
    "optimizer": {"path": "optax.adam", "args": {"learning_rate": 0.01}},
}
MODELS = {
    "jax": ({**_TRAINED, "factory": function}, plain_function),
    "jax-flax": ({**_TRAINED, "factory": module}, plain_module),
}
