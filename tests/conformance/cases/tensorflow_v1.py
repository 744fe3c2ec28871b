"""TensorFlow 1 graphs: resource and reference variables, a learning phase, losses a row and as one number, one output."""

from __future__ import annotations

from typing import Any

from conformance.case import NEURAL, Case, Halve, uniform
from conformance.cases import diabetes

NETS = "conformance.nets.tensorflow_v1"


def _config(factory: str, **keys: Any) -> dict[str, Any]:
    return {"backend": "tensorflow_v1", "factory": factory, **keys}


CASES = {
    "tensorflow_v1-cnn": Case(
        _config(f"{NETS}:smooth_cnn", input_shape=[8, 8, 2], nb_classes=10, clip_values=[0.0, 1.0], channels_first=False,
                preprocessing={"mean": 0.4, "std": 0.5}),
        uniform(8, 8, 2), NEURAL,
        layers=("conv/product:0", "softplus:0", "pool:0", "flat:0", "hidden/BiasAdd:0", "tanh:0", "logits/BiasAdd:0"),
    ),
    "tensorflow_v1-learning-phase": Case(
        _config(f"{NETS}:with_learning_phase", input_shape=[6, 6, 3], nb_classes=5, channels_first=False,
                preprocessing={"mean": 0.4, "std": 0.3}),
        uniform(6, 6, 3, dtype="float32"), NEURAL, layers=("net/logits/BiasAdd:0",),
        # Single precision: the loss is known to 1e-7, so that steps must be large, and differences are good to 1e-3.
        rtol=5e-3, step=5e-3, repeatable=False,
    ),
    "tensorflow_v1-defended-sum": Case(
        _config(f"{NETS}:mlp_summed", input_shape=[6], nb_classes=4, preprocessing={"mean": 0.1, "std": 0.7},
                preprocessing_defences=[Halve]),
        uniform(6), NEURAL, layers=("hidden/BiasAdd:0", "tanh:0", "logits/BiasAdd:0"),
    ),
    "tensorflow_v1-binary": Case(
        _config(f"{NETS}:binary", input_shape=[5], nb_classes=2, loss_reduction="mean"),
        uniform(5), NEURAL, layers=("hidden/BiasAdd:0", "tanh:0", "logit/BiasAdd:0"), single_output=True,
    ),
    "tensorflow_v1-regression": Case(
        _config(f"{NETS}:regression", task="regression", input_shape=[diabetes.NB_FEATURES], nb_classes=1,
                preprocessing={"mean": 0.4, "std": 0.2}),
        diabetes.rows, NEURAL, layers=("hidden/BiasAdd:0", "tanh:0", "value/BiasAdd:0"), targets=diabetes.targets(diabetes.y),
    ),
}  # fmt: skip
