"""Ensembles: frameworks side by side, what only predicts, and ensembles in ensembles."""

from __future__ import annotations

from typing import Any

from conformance.case import GRADIENTS, PREDICT, Case, Halve, uniform
from conformance.cases import diabetes

NETS = "conformance.nets"
_IRIS: dict[str, Any] = dict(input_shape=[4], nb_classes=3)
_DIABETES: dict[str, Any] = dict(task="regression", input_shape=[diabetes.NB_FEATURES], nb_classes=1)

MEMBERS: dict[str, dict[str, Any]] = {
    "member-net": dict(backend="torch", factory=f"{NETS}.ensemble:iris_net", loss="torch.nn.CrossEntropyLoss", **_IRIS,
                       preprocessing={"mean": 0.1, "std": 0.7}, preprocessing_defences=[Halve]),
    "member-logistic": dict(backend="sklearn", factory=f"{NETS}.sklearn:iris_logistic", output="logits", **_IRIS,
                            preprocessing={"mean": 0.2, "std": 0.3}),
    "member-svc": dict(backend="sklearn", factory=f"{NETS}.ensemble:iris_svc", output="logits", **_IRIS),
    "member-ridge": dict(backend="sklearn", factory=f"{NETS}.sklearn:diabetes_ridge", **_DIABETES),
    "member-value": dict(backend="torch", factory=f"{NETS}.torch:regression", loss="torch.nn.MSELoss", **_DIABETES),
    "member-softmax": dict(backend="torch", factory=f"{NETS}.ensemble:softmax_net", input_shape=[6], nb_classes=4),
    "member-blackbox": dict(backend="blackbox", factory="conformance.cases.blackbox:centroids", input_shape=[6], nb_classes=4),
}  # fmt: skip
"""Served beside the cases; nothing else is tested on them."""

CASES = {
    "ensemble": Case(
        dict(backend="ensemble", members=["member-net", "member-logistic"], member_weights=[0.7, 0.3], **_IRIS),
        uniform(4), PREDICT | GRADIENTS, loss_of_outputs=False,
    ),
    "ensemble-nested": Case(
        dict(backend="ensemble", members=["ensemble", "member-svc"], **_IRIS),
        uniform(4), PREDICT | GRADIENTS, loss_of_outputs=False,
    ),
    "ensemble-regression": Case(
        dict(backend="ensemble", members=["member-ridge", "member-value"], member_weights=[0.6, 0.4], **_DIABETES),
        diabetes.rows, PREDICT | GRADIENTS, loss_of_outputs=False, targets=diabetes.targets(diabetes.y),
    ),
    "ensemble-blackbox": Case(
        dict(backend="ensemble", members=["member-softmax", "member-blackbox"], input_shape=[6], nb_classes=4), uniform(6), PREDICT
    ),
}  # fmt: skip
