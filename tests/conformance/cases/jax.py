"""JAX: plain functions, Flax (linen and nnx) and Equinox; batch normalisation, one output, defences, ART's own form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import jax_models
import numpy as np
from conformance.case import NEURAL, Case, Halve, uniform
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


_ADAM = {"path": "optax.adam", "args": {"learning_rate": 0.01}}
_CROSS_ENTROPY = "optax.softmax_cross_entropy_with_integer_labels"
_OF_6 = {"backend": "jax", "enable_x64": True, "input_shape": [6], "nb_classes": 4, "optimizer": _ADAM}
_NO_LAYERS = NEURAL - {"get_activations"}

CASES = {
    "jax-cnn": Case(
        dict(backend="jax", factory=smooth_cnn, enable_x64=True, loss=_CROSS_ENTROPY, optimizer=_ADAM, input_shape=[1, 8, 8],
             nb_classes=10, clip_values=[0.0, 1.0], channels_first=True, preprocessing={"mean": 0.4, "std": 0.5}),
        uniform(1, 8, 8), NEURAL, layers=("conv", "hidden", "logits"),
    ),
    "jax-defended": Case(
        dict(factory=jax_models.with_dropout, loss="optax.softmax_cross_entropy", preprocessing={"mean": 0.1, "std": 0.7},
             preprocessing_defences=[Halve], **_OF_6),
        uniform(6), NEURAL, layers=("hidden", "logits"),
    ),
    "jax-binary": Case(
        dict(backend="jax", factory=binary, enable_x64=True, loss="optax.sigmoid_binary_cross_entropy", optimizer=_ADAM,
             input_shape=[5], nb_classes=2),
        uniform(5), _NO_LAYERS, single_output=True,
    ),
    "jax-loss-func": Case(
        dict(factory=jax_models.mlp, loss_func=jax_models.art_loss, **_OF_6),
        uniform(6), _NO_LAYERS, loss_of_outputs=False,
    ),
    "jax-flax-float32": Case(
        dict(backend="jax", factory=float32_linen, loss=_CROSS_ENTROPY, optimizer=_ADAM, input_shape=[6], nb_classes=4,
             preprocessing={"mean": 0.4, "std": 0.3}),
        uniform(6, dtype="float32"), NEURAL, layers=("block", "Dropout_0", "head"),
        # Single precision: the loss is known to 1e-7, so that differences of such steps are good to 1e-3.
        rtol=5e-3, step=4e-3,
    ),
    "jax-flax-nnx": Case(
        dict(factory=jax_models.flax_nnx, loss=_CROSS_ENTROPY, loss_reduction="sum", **_OF_6),
        uniform(6), NEURAL, layers=("linear", "norm", "drop", "tail"),
    ),
    "jax-equinox": Case(
        dict(factory=jax_models.equinox_stateful, loss=_CROSS_ENTROPY, **_OF_6),
        uniform(6), NEURAL, layers=("linear", "norm", "drop", "tail.1"),
    ),
    "jax-regression": Case(
        dict(backend="jax", factory=regression, enable_x64=True, loss="optax.squared_error", optimizer=_ADAM, task="regression",
             input_shape=[diabetes.NB_FEATURES], nb_classes=2, preprocessing={"mean": 0.4, "std": 0.2}),
        diabetes.rows, _NO_LAYERS, targets=diabetes.targets(diabetes.Y_AND_SQUARE),
    ),
}  # fmt: skip
