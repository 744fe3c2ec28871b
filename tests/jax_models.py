"""Small JAX models of the kinds that owners have; what configurations under test name as their factory."""

from __future__ import annotations

import itertools
from typing import Any

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gradwire.backends.jax import JaxFunction


def dense_params(*sizes: int, seed: int = 0, dtype: str = "float64") -> dict[str, Any]:
    """Numpy arrays, which are float64 only in a model that says so."""
    generator = np.random.default_rng(seed)
    return {
        f"dense{i}": {
            "kernel": generator.normal(0, 0.6, (n, m)).astype(dtype),
            "bias": generator.normal(0, 0.3, m).astype(dtype),
        }
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    }


def dense(params: Any, x: Any, name: str) -> Any:
    return x @ params[name]["kernel"] + params[name]["bias"]


def hidden(params: Any, x: Any) -> Any:
    return jnp.tanh(dense(params, x, "dense0"))


def mlp_outputs(params: Any, x: Any) -> Any:
    return dense(params, hidden(params, x), "dense1")


def mlp(nb_inputs: int = 6, nb_outputs: int = 4, seed: int = 0, end: str = "", dtype: str = "float64", nb_hidden: int = 8) -> Any:
    """``(predict, params)``, smooth everywhere; ``end`` names a function of `jax.nn` or `jnp` on the outputs."""
    last = getattr(jax.nn, end) if end else lambda outputs: outputs
    return lambda params, x: last(mlp_outputs(params, x)), dense_params(nb_inputs, nb_hidden, nb_outputs, seed=seed, dtype=dtype)


def with_layers() -> JaxFunction:
    return JaxFunction(mlp_outputs, dense_params(6, 8, 4), layers={"hidden": hidden, "logits": mlp_outputs})


def all_activations(params: Any, x: Any) -> dict[str, Any]:
    inner = hidden(params, x)
    return {"z_hidden": inner, "a_logits": dense(params, inner, "dense1"), "pair": (inner, x)}


def with_activations() -> JaxFunction:
    return JaxFunction(mlp_outputs, dense_params(6, 8, 4), layers=all_activations)


def dropped(params: Any, x: Any, key: Any) -> Any:
    inner = hidden(params, x)
    return dense(params, inner * jax.random.bernoulli(key, 0.5, inner.shape) * 2, "dense1")


def with_dropout() -> JaxFunction:
    return JaxFunction(mlp_outputs, dense_params(6, 8, 4), layers={"hidden": hidden, "logits": mlp_outputs}, training=dropped)


def embedded() -> Any:
    """Rows of 7 tokens, float32."""
    generator = np.random.default_rng(0)
    params = {"tokens": generator.normal(size=(11, 6)).astype("f4"), "head": generator.normal(size=(6, 3)).astype("f4")}
    return lambda params, x: params["tokens"][x].mean(1) @ params["head"], params


def mean_of_any() -> Any:
    """Rows of any number of steps of three features."""
    return lambda params, x: mlp_outputs(params, x.mean(1)), dense_params(3, 8, 4)


def detached() -> Any:
    """No gradient comes through."""
    return lambda params, x: mlp_outputs(params, jax.lax.stop_gradient(x)), dense_params(6, 8, 4)


def rounded_layer() -> Any:
    """The outputs have gradients, one of the layers has none."""
    layers = {"top": lambda params, x: mlp_outputs(params, x).argmax(1), "inner": hidden}
    return JaxFunction(jax.jit(mlp_outputs), dense_params(6, 8, 4), layers=layers)


def looks_at_numbers() -> Any:
    return lambda params, x: mlp_outputs(params, x if x.sum() > 0 else -x), dense_params(6, 8, 4)


class Linen(linen.Module):
    """6 features to 4 logits, with all that linen models have: collections, dropout, modules in modules."""

    normalise: bool = True
    dtype: Any = jnp.float64

    @linen.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = Block(self.normalise, self.dtype, name="block")(x, train)
        x = linen.Dropout(0.5, deterministic=not train)(x)
        return linen.Dense(4, param_dtype=self.dtype, name="head")(x)


class Block(linen.Module):
    normalise: bool
    dtype: Any

    @linen.compact
    def __call__(self, x: Any, train: bool) -> Any:
        x = linen.Dense(8, param_dtype=self.dtype, name="linear")(x)
        if self.normalise:
            x = linen.BatchNorm(use_running_average=not train, param_dtype=self.dtype, name="norm", momentum=0.9)(x)
        return jnp.tanh(x)


def flax_linen(normalise: bool = True, dtype: str = "float64", seed: int = 0) -> Any:
    module = Linen(normalise, jnp.dtype(dtype))
    variables = module.init(jax.random.key(seed), jnp.zeros((1, 6), dtype))
    # flax begins statistics in float32, whatever param_dtype says.
    return module, jax.tree.map(lambda leaf: leaf.astype(dtype), variables)


class Nnx(nnx.Module):
    """6 features to 4 logits."""

    def __init__(self, rngs: nnx.Rngs, dtype: Any) -> None:
        self.linear = nnx.Linear(6, 8, rngs=rngs, param_dtype=dtype)
        self.norm = nnx.BatchNorm(8, rngs=rngs, param_dtype=dtype, momentum=0.9)
        # flax begins them in float32, whatever param_dtype says.
        self.norm.mean, self.norm.var = nnx.BatchStat(jnp.zeros(8, dtype)), nnx.BatchStat(jnp.ones(8, dtype))
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.tail = nnx.Sequential(nnx.tanh, nnx.Linear(8, 4, rngs=rngs, param_dtype=dtype))

    def __call__(self, x: Any) -> Any:
        return self.tail(self.drop(self.norm(self.linear(x))))


def flax_nnx(dtype: str = "float64") -> Any:
    return Nnx(nnx.Rngs(0), jnp.dtype(dtype))


class Stateful(eqx.Module):
    """6 features to 4 logits."""

    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    tail: list[Any]

    def __init__(self, key: Any) -> None:
        first, second = jax.random.split(key)
        self.linear = eqx.nn.Linear(6, 8, key=first)
        self.norm = eqx.nn.BatchNorm(8, axis_name="rows", momentum=0.9, mode="batch")
        self.drop = eqx.nn.Dropout(0.5)
        self.tail = [jnp.tanh, eqx.nn.Linear(8, 4, key=second)]

    def __call__(self, x: Any, state: Any, *, key: Any) -> Any:
        x, state = self.norm(self.linear(x), state)
        x = self.drop(x, key=key)
        for layer in self.tail:
            x = layer(x)
        return x, state


def equinox_stateful() -> Any:
    return eqx.nn.make_with_state(Stateful)(jax.random.key(0))


def equinox_mlp() -> Any:
    return eqx.nn.MLP(6, 4, 8, 1, activation=jnp.tanh, key=jax.random.key(1))


def equinox_dropout() -> Any:
    keys = jax.random.split(jax.random.key(2))
    layers = [eqx.nn.Linear(6, 8, key=keys[0]), eqx.nn.Lambda(jnp.tanh), eqx.nn.Dropout(0.5), eqx.nn.Linear(8, 4, key=keys[1])]
    return eqx.nn.Sequential(layers)


def brier_loss(outputs: Any, targets: Any) -> Any:
    return ((jax.nn.softmax(outputs) - targets) ** 2).sum(1)


def margin_of_indices(outputs: Any, labels: Any, margin: float = 1.0) -> Any:
    chosen = jnp.take_along_axis(outputs, labels[:, None], 1)
    return jax.nn.softplus(margin - chosen + outputs).sum(1)


def reduced_loss(outputs: Any, targets: Any) -> Any:
    return ((outputs - targets) ** 2).mean()


def art_loss(params: Any, x: Any, y: Any) -> Any:
    """ART's form: a number for a batch, of one-hot rows."""
    return -(y * jax.nn.log_softmax(mlp_outputs(params, x))).sum(1).mean()


def art_update(params: Any, x: Any, y: Any, rate: float = 0.1) -> Any:
    gradient = jax.grad(art_loss)(params, x, y)
    return jax.tree.map(lambda p, g: p - rate * g, params, gradient)


def wrong_update(params: Any, x: Any, y: Any) -> Any:
    return {"dense0": params["dense0"]}


def frozen_first(learning_rate: float = 0.1) -> optax.GradientTransformation:
    """An optimizer that leaves the first layer as it is."""
    labels = lambda params: {name: "frozen" if name == "dense0" else "trained" for name in params}  # noqa: E731
    return optax.multi_transform({"frozen": optax.set_to_zero(), "trained": optax.sgd(learning_rate)}, labels)


def not_a_model() -> int:
    return 7
