"""Names of the contract's enum values."""

from __future__ import annotations

from typing import Any

import pytest

from gradwire.backends.capabilities import Answer, Operation
from gradwire.v1 import estimator_pb2
from gradwire.v1 import model_pb2 as pb
from gradwire.wire import names

TABLES = {
    pb.Operation: (names.OPERATION_NAMES, names.OPERATIONS),
    estimator_pb2.Answer: (names.ANSWER_NAMES, names.ANSWERS),
    pb.Access: (names.ACCESS_NAMES, names.ACCESS_LEVELS),
    pb.Task: (names.TASK_NAMES, names.TASKS),
    pb.OutputKind: (names.OUTPUT_KIND_NAMES, names.OUTPUT_KINDS),
}


@pytest.mark.parametrize("enum", TABLES, ids=lambda enum: enum.DESCRIPTOR.name)
def test_every_value_but_unspecified_has_a_name_and_back(enum: Any) -> None:
    by_value, by_name = TABLES[enum]
    assert sorted(by_value) == sorted(set(enum.values()) - {0})
    assert [by_name[by_value[value]] for value in by_value] == list(by_value)


def test_the_names_are_those_of_the_backends() -> None:
    assert [operation.value for operation in Operation] == list(names.OPERATIONS)
    assert [answer.value for answer in Answer] == list(names.ANSWERS)


def test_a_value_of_a_later_contract_is_unknown() -> None:
    assert names.name_in(names.TASK_NAMES, pb.TASK_REGRESSION) == "regression"
    assert names.name_in(names.TASK_NAMES, 99) == "unknown (99)"
