"""Tables from the server's enums to the contract's; assertions keep them complete."""

from __future__ import annotations

from typing import get_args

from gradwire.backends.capabilities import Answer, Operation
from gradwire.server.values.access import AccessLevel
from gradwire.v1 import estimator_pb2
from gradwire.v1 import model_pb2 as pb
from gradwire.wire import names

OPERATIONS: dict[Operation, pb.Operation] = {operation: names.OPERATIONS[operation.value] for operation in Operation}
assert len(OPERATIONS) == len(names.OPERATIONS)

ANSWERS: dict[Answer, estimator_pb2.Answer] = {answer: names.ANSWERS[answer.value] for answer in Answer}
assert len(ANSWERS) == len(names.ANSWERS)

CONTRACT: dict[AccessLevel, pb.Access] = {level: names.ACCESS_LEVELS[level] for level in get_args(AccessLevel)}
"""The contract's value of each access level."""
assert len(CONTRACT) == len(names.ACCESS_LEVELS)
