"""Conformance cases: one served model for each backend and kind.

Models are small, smooth where gradients are compared with finite differences, and float64 where the framework can. They are
made in `conformance.nets`, one module a framework, which are imported where a case is served: nothing here imports a framework.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conformance.case import GRADIENTS, NEURAL, PREDICT, TRAINED, Case, uniform
from conformance.cases import blackbox, ensemble, gpy, jax, keras, mxnet, sklearn, tensorflow, tensorflow_v1, torch
from conformance.servers import SERVERS

__all__ = ["CASES", "GRADIENTS", "NEURAL", "PREDICT", "TRAINED", "Case", "served", "uniform", "with_operation"]

CASES: dict[str, Case] = {
    **torch.CASES,
    **tensorflow.CASES,
    **keras.CASES,
    **tensorflow_v1.CASES,
    **jax.CASES,
    **mxnet.CASES,
    **sklearn.CASES,
    **gpy.CASES,
    **blackbox.CASES,
    **ensemble.CASES,
}


def with_operation(operation: str, where: Callable[[Case], bool] = lambda case: True) -> pytest.MarkDecorator:
    """Runs a test on the cases that have an operation, and for which ``where`` holds."""
    return pytest.mark.parametrize("name", [name for name, case in CASES.items() if operation in case.operations and where(case)])


def served(server: str) -> dict[str, dict[str, Any]]:
    """Models of one of ``SERVERS``: each case with trainer access, and one of torch under every access."""
    cases = {name: case for name, case in CASES.items() if case.backend in SERVERS[server]}
    for case in cases.values():
        case.prepare()
    models = {name: {**case.config, "access": "trainer"} for name, case in cases.items()}
    if server != "torch":
        return models
    for access in ("labels", "scores", "gradients"):
        models[f"torch-cnn-{access}"] = {"same_as": "torch-cnn", "access": access}
    return models | ensemble.MEMBERS
