"""Torch modules: convolutions, batch normalisation, modules in modules, one output, recurrent; defences and weighted losses."""

from __future__ import annotations

from conformance.case import NEURAL, Case, Halve, uniform
from conformance.cases import diabetes

NETS = "conformance.nets.torch"
_ADAM = {"path": "torch.optim.Adam", "args": {"lr": 0.01}}
_CROSS_ENTROPY = "torch.nn.CrossEntropyLoss"

CASES = {
    "torch-cnn": Case(
        dict(backend="torch", factory=f"{NETS}:smooth_cnn", loss=_CROSS_ENTROPY, optimizer=_ADAM, input_shape=[1, 8, 8],
             nb_classes=10, clip_values=[0.0, 1.0], channels_first=True, preprocessing={"mean": 0.4, "std": 0.5}),
        uniform(1, 8, 8), NEURAL, layers=("0", "1", "2", "3", "4", "5", "6"),
    ),
    "torch-float32": Case(
        dict(backend="torch", factory=f"{NETS}:float32_cnn", loss=_CROSS_ENTROPY, optimizer=_ADAM, input_shape=[3, 6, 6],
             nb_classes=5, channels_first=True, preprocessing={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}),
        uniform(3, 6, 6, dtype="float32"), NEURAL, layers=("0", "1", "2", "3", "4", "5", "6", "7"),
        # Single precision: the loss is known to 1e-7, so that steps must be large, and differences are good to 1e-3.
        rtol=5e-3, step=2e-2, repeatable=False,
    ),
    "torch-defended": Case(
        dict(backend="torch", factory=f"{NETS}:Deep", loss=_CROSS_ENTROPY, optimizer=_ADAM, input_shape=[6], nb_classes=4,
             preprocessing={"mean": 0.1, "std": 0.7}, preprocessing_defences=[Halve]),
        uniform(6), NEURAL, layers=("body", "head"),
    ),
    "torch-weighted-sum": Case(
        dict(backend="torch", factory=f"{NETS}:Deep", optimizer=_ADAM, input_shape=[6], nb_classes=4,
             loss={"path": _CROSS_ENTROPY, "args": {"reduction": "sum", "label_smoothing": 0.1}}),
        uniform(6), NEURAL, layers=("body", "head"),
    ),
    "torch-binary": Case(
        dict(backend="torch", factory=f"{NETS}:binary", loss="torch.nn.BCEWithLogitsLoss", optimizer=_ADAM, input_shape=[5],
             nb_classes=2),
        uniform(5), NEURAL, layers=("0", "1", "2"), single_output=True,
    ),
    "torch-recurrent": Case(
        dict(backend="torch", factory=f"{NETS}:recurrent", loss=_CROSS_ENTROPY, optimizer=_ADAM, input_shape=[7, 3], nb_classes=4),
        uniform(7, 3), NEURAL, layers=("rnn", "head"),
    ),
    "torch-regression": Case(
        dict(backend="torch", factory=f"{NETS}:regression", loss="torch.nn.MSELoss", optimizer=_ADAM, task="regression",
             input_shape=[diabetes.NB_FEATURES], nb_classes=1, preprocessing={"mean": 0.4, "std": 0.2}),
        diabetes.rows, NEURAL, layers=("0", "1", "2"), targets=diabetes.targets(diabetes.y),
    ),
    "torch-regression-several": Case(
        dict(backend="torch", factory={"path": f"{NETS}:regression", "args": {"outputs": 2}}, optimizer=_ADAM,
             loss={"path": "torch.nn.HuberLoss", "args": {"reduction": "sum"}}, task="regression",
             input_shape=[diabetes.NB_FEATURES], nb_classes=2, preprocessing_defences=[Halve]),
        diabetes.rows, NEURAL, layers=("0", "1", "2"), targets=diabetes.targets(diabetes.y_and_square),
    ),
}  # fmt: skip
