"""Keras: sequential, functional and subclassed models, several inputs and outputs, recurrent, one output."""

from __future__ import annotations

from typing import Any

from conformance.case import NEURAL, Case, Halve, uniform
from conformance.cases import diabetes

NETS = "conformance.nets.keras"


def _entropy(**args: Any) -> dict[str, Any]:
    return {"path": "keras.losses.SparseCategoricalCrossentropy", "args": args}


_ADAM = {"path": "keras.optimizers.Adam", "args": {"learning_rate": 0.01}}

CASES = {
    "keras-cnn": Case(
        dict(backend="keras", factory=f"{NETS}:smooth_cnn", loss=_entropy(), optimizer=_ADAM, input_shape=[8, 8, 2], nb_classes=10,
             clip_values=[0.0, 1.0], channels_first=False, preprocessing={"mean": 0.4, "std": 0.5}),
        uniform(8, 8, 2), NEURAL, layers=("conv", "pool", "flat", "hidden", "scores"),
    ),
    "keras-residual": Case(
        dict(backend="keras", factory=f"{NETS}:residual", input_shape=[6, 6, 3], nb_classes=5, channels_first=False,
             preprocessing={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}),
        uniform(6, 6, 3, dtype="float32"), NEURAL,
        layers=("conv", "norm", "softplus", "joined", "pool", "dropout", "logits"),
        # Single precision: the loss is known to 1e-7, so that steps must be large, and differences are good to 1e-3.
        rtol=5e-3, step=2e-2,
    ),
    "keras-branches": Case(
        dict(backend="keras", factory=f"{NETS}:branches", loss=_entropy(from_logits=True, reduction="sum"), optimizer=_ADAM,
             input_shape=[6],
             nb_classes=4, output_layer=1, other_inputs={"context": [0.1, -0.2, 0.3]}, preprocessing_defences=[Halve],
             preprocessing={"mean": 0.1, "std": 0.7}),
        uniform(6), NEURAL, layers=("block", "side", "joined", "head"),
    ),
    "keras-binary": Case(
        dict(backend="keras", factory=f"{NETS}:Subclassed", loss="keras.losses.BinaryCrossentropy", optimizer=_ADAM,
             input_shape=[5], nb_classes=2),
        uniform(5), NEURAL, layers=("hidden", "head"), single_output=True,
    ),
    "keras-recurrent": Case(
        dict(backend="keras", factory=f"{NETS}:recurrent", loss=_entropy(from_logits=True), optimizer=_ADAM, input_shape=[7, 3],
             nb_classes=4),
        uniform(7, 3), NEURAL, layers=("gru", "head"),
    ),
    "keras-regression": Case(
        dict(backend="keras", factory=f"{NETS}:regression", loss="keras.losses.MeanSquaredError", optimizer=_ADAM,
             task="regression", input_shape=[diabetes.NB_FEATURES], nb_classes=1, preprocessing={"mean": 0.4, "std": 0.2}),
        diabetes.rows, NEURAL, layers=("hidden", "value"), targets=diabetes.targets(diabetes.y),
    ),
}  # fmt: skip
