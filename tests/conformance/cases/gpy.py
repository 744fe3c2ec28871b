"""Gaussian processes: a smooth kernel, one without derivatives of its own, features in two axes, a defence in front."""

from __future__ import annotations

from conformance.case import GRADIENTS, PREDICT, Case, Halve, uniform

NETS = "conformance.nets.gpy"

CASES = {
    "gpy-rbf": Case(
        dict(backend="gpy", factory=f"{NETS}:process", input_shape=[4], nb_classes=2, preprocessing={"mean": 0.1, "std": 0.8}),
        uniform(4), PREDICT | GRADIENTS,
    ),
    "gpy-poly": Case(
        dict(backend="gpy", factory=f"{NETS}:polynomial", input_shape=[2, 2], nb_classes=2, loss="cross_entropy"),
        uniform(2, 2), PREDICT | GRADIENTS,
    ),
    "gpy-defended": Case(
        dict(backend="gpy", factory=f"{NETS}:matern", input_shape=[4], nb_classes=2, loss="cross_entropy",
             preprocessing={"mean": [0.1, 0.2, 0.3, 0.4], "std": 0.5}, preprocessing_defences=[Halve]),
        uniform(4), PREDICT | GRADIENTS,
    ),
}  # fmt: skip
