"""scikit-learn: closed forms, behind scalers too, and what predicts without gradients."""

from __future__ import annotations

from conformance.case import GRADIENTS, PREDICT, TRAINED, Case, Halve, uniform
from conformance.cases import diabetes

NETS = "conformance.nets.sklearn"
_REGRESSION = {"backend": "sklearn", "task": "regression", "input_shape": [diabetes.NB_FEATURES], "nb_classes": 1}

CASES = {
    "sklearn-logistic": Case(
        dict(backend="sklearn", factory=f"{NETS}:iris_logistic", input_shape=[4], nb_classes=3, preprocessing={"mean": 0.2,
             "std": 0.3}),
        uniform(4), PREDICT | TRAINED | GRADIENTS,
    ),
    "sklearn-svc": Case(
        dict(backend="sklearn", factory=f"{NETS}:digits_svc", input_shape=[64], nb_classes=10),
        uniform(64), PREDICT | TRAINED | GRADIENTS - {"vjp"}, scores=False,
    ),
    "sklearn-network": Case(
        dict(backend="sklearn", factory=f"{NETS}:iris_network", input_shape=[4], nb_classes=3, preprocessing_defences=[Halve]),
        uniform(4), PREDICT | TRAINED | GRADIENTS | {"get_activations"}, layers=("hidden_0", "hidden_1", "output"),
    ),
    "sklearn-bayes": Case(
        dict(backend="sklearn", factory=f"{NETS}:iris_bayes", input_shape=[2, 2], nb_classes=3, output="logits"),
        uniform(2, 2), PREDICT | TRAINED | GRADIENTS, long_fit_rows=600_000,
    ),
    "sklearn-pipeline": Case(
        dict(backend="sklearn", factory=f"{NETS}:digits_pipeline", input_shape=[8, 8], nb_classes=10),
        uniform(8, 8), PREDICT | TRAINED | GRADIENTS - {"vjp"}, scores=False,
    ),
    "sklearn-forest": Case(
        dict(backend="sklearn", factory=f"{NETS}:digits_forest", input_shape=[8, 8], nb_classes=10), uniform(8, 8),
             PREDICT | TRAINED
    ),
    "sklearn-regression": Case(
        dict(**_REGRESSION, factory=f"{NETS}:diabetes_ridge", preprocessing={"mean": 0.2, "std": 0.3}),
        diabetes.rows, PREDICT | TRAINED | GRADIENTS, targets=diabetes.targets(diabetes.y),
    ),
    "sklearn-regression-network": Case(
        {**_REGRESSION, "factory": f"{NETS}:diabetes_network", "nb_classes": 2, "preprocessing_defences": [Halve]},
        diabetes.rows, PREDICT | TRAINED | GRADIENTS | {"get_activations"}, layers=("hidden_0", "hidden_1", "output"),
        targets=diabetes.targets(diabetes.y_and_square),
    ),
    "sklearn-regression-forest": Case(
        dict(**_REGRESSION, factory=f"{NETS}:diabetes_forest"),
        diabetes.rows, PREDICT | TRAINED | {"loss"}, targets=diabetes.targets(diabetes.y),
    ),
}  # fmt: skip
