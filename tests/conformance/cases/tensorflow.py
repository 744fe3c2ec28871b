"""TensorFlow: modules, functions that hold their variables, SavedModels, a train step of the owner's; one output."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from conformance.case import NEURAL, Case, Halve, uniform
from conformance.cases import diabetes

NETS = "conformance.nets.tensorflow"
_FOLDER = tempfile.TemporaryDirectory()
SAVED = Path(_FOLDER.name) / "mlp"


def _save() -> None:
    from conformance.nets.tensorflow import save_mlp

    if not SAVED.exists():
        save_mlp(SAVED)


def _entropy(**args: Any) -> dict[str, Any]:
    return {"path": "keras.losses.SparseCategoricalCrossentropy", "args": {"from_logits": True, **args}}


_ADAM = {"path": "keras.optimizers.Adam", "args": {"learning_rate": 0.01}}

CASES = {
    "tensorflow-cnn": Case(
        dict(backend="tensorflow", factory=f"{NETS}:SmoothCnn", loss=_entropy(), optimizer=_ADAM, input_shape=[8, 8, 2],
             nb_classes=10, clip_values=[0.0, 1.0], channels_first=False, preprocessing={"mean": 0.4, "std": 0.5}),
        uniform(8, 8, 2), NEURAL, layers=("hidden", "logits"),
    ),
    "tensorflow-float32": Case(
        dict(backend="tensorflow", factory=f"{NETS}:Normalised", loss=_entropy(), optimizer=_ADAM, input_shape=[6, 6, 3],
             nb_classes=5, channels_first=False, preprocessing={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}),
        uniform(6, 6, 3, dtype="float32"), NEURAL, layers=("norm", "last"),
        # Single precision: the loss is known to 1e-7, so that steps must be large, and differences are good to 1e-3.
        rtol=5e-3, step=2e-2, repeatable=False,
    ),
    "tensorflow-defended": Case(
        dict(backend="tensorflow", factory=f"{NETS}:Mlp", optimizer=_ADAM, input_shape=[6], nb_classes=4,
             preprocessing_defences=[Halve], preprocessing={"mean": 0.1, "std": 0.7},
             loss={"path": "keras.losses.CategoricalCrossentropy",
                   "args": {"from_logits": True, "reduction": "sum", "label_smoothing": 0.1}}),
        uniform(6), NEURAL, layers=("first", "last"),
    ),
    "tensorflow-train-step": Case(
        dict(backend="tensorflow", factory=f"{NETS}:Mlp", loss="keras.losses.MeanSquaredError", train_step=f"{NETS}:owners_step",
             input_shape=[6], nb_classes=4),
        uniform(6), NEURAL, layers=("first", "last"),
    ),
    "tensorflow-function": Case(
        dict(backend="tensorflow", factory=f"{NETS}:function", loss=_entropy(), optimizer=_ADAM, input_shape=[6], nb_classes=4,
             input_dtype="float64"),
        uniform(6), NEURAL - {"get_activations"},
    ),
    "tensorflow-saved-model": Case(
        dict(backend="tensorflow", saved_model=SAVED, loss=_entropy(), optimizer=_ADAM, input_shape=[6], nb_classes=4),
        uniform(6), NEURAL - {"get_activations", "clone_for_refitting"}, prepare=_save,
    ),
    "tensorflow-binary": Case(
        dict(backend="tensorflow", factory={"path": f"{NETS}:Mlp", "args": {"outputs": 1}}, optimizer=_ADAM,
             loss={"path": "keras.losses.BinaryCrossentropy", "args": {"from_logits": True}}, input_shape=[6], nb_classes=2),
        uniform(6), NEURAL, layers=("first", "last"), single_output=True,
    ),
    "tensorflow-regression": Case(
        dict(backend="tensorflow", factory={"path": f"{NETS}:Mlp", "args": {"outputs": 2, "inputs": 10}},
             optimizer=_ADAM, loss="keras.losses.LogCosh", task="regression", input_shape=[diabetes.NB_FEATURES], nb_classes=2,
             preprocessing={"mean": 0.4, "std": 0.2}),
        diabetes.rows, NEURAL, layers=("first", "last"), targets=diabetes.targets(diabetes.y_and_square),
    ),
}  # fmt: skip
