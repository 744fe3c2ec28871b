"""JAX models that the conformance body is run on."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax_models
import numpy as np
from conformance.cases import diabetes

from gradwire.backends.jax import JaxFunction


def _kernels(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, 0.3, shape) for name, shape in shapes.items()}


def _convolved(params: Any, x: Any) -> Any:
    return jax.lax.conv_general_dilated(x, params["conv"], (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW"))


def _hidden(params: Any, x: Any) -> Any:
    smooth = jax.nn.softplus(_convolved(params, x))
    return jnp.tanh(smooth.reshape(len(x), -1) @ params["hidden"])


def _logits(params: Any, x: Any) -> Any:
    return _hidden(params, x) @ params["head"]


def smooth_cnn() -> JaxFunction:
    """1x8x8 to 10 logits, float64."""
    params = _kernels({"conv": (4, 1, 3, 3), "hidden": (144, 16), "head": (16, 10)}, 1)
    return JaxFunction(_logits, params, layers={"conv": _convolved, "hidden": _hidden, "logits": _logits})


def float32_linen() -> Any:
    """6 features to 4 logits, with batch normalisation and dropout."""
    return jax_models.flax_linen(dtype="float32")


def binary() -> Any:
    """Five features to one logit."""
    return lambda params, x: jax_models.mlp_outputs(params, x)[:, 0], jax_models.dense_params(5, 6, 1)


def regression() -> Any:
    """The features of `diabetes` to two values."""
    return jax_models.mlp(diabetes.NB_FEATURES, 2)
