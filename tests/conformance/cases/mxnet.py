"""Gluon blocks, traced and as they are written, and an exported graph. Plain data: MXNet is in another environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conformance.case import NEURAL, Case, uniform
from conformance.cases import diabetes
from environments import MXNET

FILES = Path(__file__).parents[2] / "mxnet_files"

_TRAINED: dict[str, Any] = {
    "backend": "mxnet",
    "loss": "mxnet.gluon.loss.SoftmaxCrossEntropyLoss",
    "optimizer": {"path": "adam", "args": {"learning_rate": 0.01}},
}

CASES = {
    "mxnet-cnn": Case(
        dict(**_TRAINED, factory="mxnet_models:smooth_cnn", input_shape=[1, 8, 8], nb_classes=10,
             clip_values=[0.0, 1.0], channels_first=True, preprocessing={"mean": 0.4, "std": 0.5}),
        uniform(1, 8, 8), NEURAL, layers=("0", "1", "2", "3", "4", "5", "6"), environment=MXNET,
    ),
    "mxnet-float32": Case(
        dict(**_TRAINED, factory="mxnet_models:float32_cnn", input_shape=[3, 6, 6], nb_classes=5,
             channels_first=True, preprocessing={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}),
        uniform(3, 6, 6, dtype="float32"), NEURAL, layers=("0", "1", "2", "3", "4", "5", "6", "7"), environment=MXNET,
        # Single precision, as torch-float32.
        rtol=5e-3, step=2e-2, repeatable=False,
    ),
    "mxnet-defended": Case(
        dict(**_TRAINED, factory="mxnet_models:Deep", input_shape=[6], nb_classes=4,
             preprocessing={"mean": 0.1, "std": 0.7}, preprocessing_defences=["conformance.case:Halve"]),
        uniform(6), NEURAL, layers=("body", "head"), environment=MXNET,
    ),
    "mxnet-binary": Case(
        {**_TRAINED, "factory": "mxnet_models:binary", "loss": "mxnet.gluon.loss.SigmoidBinaryCrossEntropyLoss",
         "input_shape": [5], "nb_classes": 2},
        uniform(5), NEURAL, layers=("0", "1", "2"), single_output=True, environment=MXNET,
    ),
    "mxnet-recurrent": Case(
        dict(**_TRAINED, factory="mxnet_models:Recurrent", input_shape=[7, 3], nb_classes=4),
        uniform(7, 3), NEURAL, layers=("rnn", "head"), environment=MXNET,
    ),
    "mxnet-regression": Case(
        {**_TRAINED, "factory": {"path": "mxnet_models:dense", "args": {"nb_inputs": diabetes.NB_FEATURES, "nb_outputs": 1}},
         "loss": "mxnet.gluon.loss.L2Loss", "task": "regression", "input_shape": [diabetes.NB_FEATURES], "nb_classes": 1,
         "preprocessing": {"mean": 0.4, "std": 0.2}},
        diabetes.rows, NEURAL, layers=("0", "1", "2"), targets=diabetes.targets(diabetes.y), environment=MXNET,
    ),
    "mxnet-exported": Case(
        dict(**_TRAINED, symbol=str(FILES / "smooth-symbol.json"), weights=str(FILES / "smooth-0000.params"),
             input_shape=[6], nb_classes=4),
        uniform(6), NEURAL, layers=("dense0_fwd", "batchnorm0_fwd", "tanh0_fwd", "dense1_fwd"), environment=MXNET,
    ),
}  # fmt: skip
