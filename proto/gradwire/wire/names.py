"""Names of the contract's enum values that users type: operations, answers, access levels, tasks, output kinds.

Client and server share these tables; assertions keep them complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from gradwire.v1 import estimator_pb2
from gradwire.v1 import model_pb2 as pb

OPERATION_NAMES: dict[pb.Operation, str] = {
    pb.OPERATION_PREDICT: "predict",
    pb.OPERATION_LOSS: "loss",
    pb.OPERATION_LOSS_GRADIENT: "loss_gradient",
    pb.OPERATION_CLASS_GRADIENT: "class_gradient",
    pb.OPERATION_GET_ACTIVATIONS: "get_activations",
    pb.OPERATION_VECTOR_JACOBIAN_PRODUCT: "vjp",
    pb.OPERATION_FIT: "fit",
    pb.OPERATION_FIT_BATCHES: "fit_generator",
    pb.OPERATION_VERSIONS: "save",
    pb.OPERATION_CLONE: "clone_for_refitting",
}
"""Operations by the names of the estimator's methods, in the contract's order."""

ANSWER_NAMES: dict[estimator_pb2.Answer, str] = {
    estimator_pb2.ANSWER_OUTPUTS: "outputs",
    estimator_pb2.ANSWER_LOGITS: "logits",
    estimator_pb2.ANSWER_UNCERTAINTY: "uncertainty",
    estimator_pb2.ANSWER_MEMBERS: "members",
}

ACCESS_NAMES: dict[pb.Access, str] = {
    pb.ACCESS_LABELS: "labels",
    pb.ACCESS_SCORES: "scores",
    pb.ACCESS_GRADIENTS: "gradients",
    pb.ACCESS_TRAINER: "trainer",
}
"""Access levels; each includes those before it."""

TASK_NAMES: dict[pb.Task, str] = {pb.TASK_CLASSIFICATION: "classification", pb.TASK_REGRESSION: "regression"}

OUTPUT_KIND_NAMES: dict[pb.OutputKind, str] = {
    pb.OUTPUT_KIND_LOGITS: "logits",
    pb.OUTPUT_KIND_PROBABILITIES: "probabilities",
    pb.OUTPUT_KIND_LABELS: "labels",
    pb.OUTPUT_KIND_VALUES: "values",
}

_TABLES: tuple[tuple[Any, Mapping[Any, str]], ...] = (
    (pb.Operation, OPERATION_NAMES),
    (estimator_pb2.Answer, ANSWER_NAMES),
    (pb.Access, ACCESS_NAMES),
    (pb.Task, TASK_NAMES),
    (pb.OutputKind, OUTPUT_KIND_NAMES),
)
# 0 is UNSPECIFIED in each of them.
assert all(set(names) == set(enum.values()) - {0} and len(set(names.values())) == len(names) for enum, names in _TABLES)

Value = TypeVar("Value")


def _by_name(names: Mapping[Value, str]) -> dict[str, Value]:
    return {name: value for value, name in names.items()}


OPERATIONS = _by_name(OPERATION_NAMES)
ANSWERS = _by_name(ANSWER_NAMES)
ACCESS_LEVELS = _by_name(ACCESS_NAMES)
TASKS = _by_name(TASK_NAMES)
OUTPUT_KINDS = _by_name(OUTPUT_KIND_NAMES)


def name_in(names: Mapping[Value, str], value: Value) -> str:
    """Returns the name of an enum value; "unknown (number)" for a value that this version lacks."""
    return names.get(value, f"unknown ({value})")
