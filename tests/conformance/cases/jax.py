"""JAX: plain functions, Flax (linen and nnx) and Equinox; batch normalisation, one output, defences, ART's own form."""

from __future__ import annotations

from conformance.case import NEURAL, Case, Halve, uniform
from conformance.cases import diabetes

NETS = "conformance.nets.jax"
_ADAM = {"path": "optax.adam", "args": {"learning_rate": 0.01}}
_CROSS_ENTROPY = "optax.softmax_cross_entropy_with_integer_labels"
_OF_6 = {"backend": "jax", "enable_x64": True, "input_shape": [6], "nb_classes": 4, "optimizer": _ADAM}
_NO_LAYERS = NEURAL - {"get_activations"}

CASES = {
    "jax-cnn": Case(
        dict(backend="jax", factory=f"{NETS}:smooth_cnn", enable_x64=True, loss=_CROSS_ENTROPY, optimizer=_ADAM, input_shape=[1,
             8, 8], nb_classes=10, clip_values=[0.0, 1.0], channels_first=True, preprocessing={"mean": 0.4, "std": 0.5}),
        uniform(1, 8, 8), NEURAL, layers=("conv", "hidden", "logits"),
    ),
    "jax-defended": Case(
        dict(factory="jax_models:with_dropout", loss="optax.softmax_cross_entropy", preprocessing={"mean": 0.1, "std": 0.7},
             preprocessing_defences=[Halve], **_OF_6),
        uniform(6), NEURAL, layers=("hidden", "logits"),
    ),
    "jax-binary": Case(
        dict(backend="jax", factory=f"{NETS}:binary", enable_x64=True, loss="optax.sigmoid_binary_cross_entropy", optimizer=_ADAM,
             input_shape=[5], nb_classes=2),
        uniform(5), _NO_LAYERS, single_output=True,
    ),
    "jax-loss-func": Case(
        dict(factory="jax_models:mlp", loss_func="jax_models:art_loss", **_OF_6),
        uniform(6), _NO_LAYERS, loss_of_outputs=False,
    ),
    "jax-flax-float32": Case(
        dict(backend="jax", factory=f"{NETS}:float32_linen", loss=_CROSS_ENTROPY, optimizer=_ADAM, input_shape=[6], nb_classes=4,
             preprocessing={"mean": 0.4, "std": 0.3}),
        uniform(6, dtype="float32"), NEURAL, layers=("block", "Dropout_0", "head"),
        # Single precision: the loss is known to 1e-7, so that differences of such steps are good to 1e-3.
        rtol=5e-3, step=4e-3,
    ),
    "jax-flax-nnx": Case(
        dict(factory="jax_models:flax_nnx", loss=_CROSS_ENTROPY, loss_reduction="sum", **_OF_6),
        uniform(6), NEURAL, layers=("linear", "norm", "drop", "tail"),
    ),
    "jax-equinox": Case(
        dict(factory="jax_models:equinox_stateful", loss=_CROSS_ENTROPY, **_OF_6),
        uniform(6), NEURAL, layers=("linear", "norm", "drop", "tail.1"),
    ),
    "jax-regression": Case(
        dict(backend="jax", factory=f"{NETS}:regression", enable_x64=True, loss="optax.squared_error", optimizer=_ADAM,
             task="regression", input_shape=[diabetes.NB_FEATURES], nb_classes=2, preprocessing={"mean": 0.4, "std": 0.2}),
        diabetes.rows, _NO_LAYERS, targets=diabetes.targets(diabetes.y_and_square),
    ),
}  # fmt: skip
