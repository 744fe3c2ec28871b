"""Tables from the server's enums to the contract's; assertions keep them complete."""

from __future__ import annotations

from gradwire.backends.capabilities import Answer, Operation
from gradwire.server.values.access import AccessLevel
from gradwire.v1 import estimator_pb2
from gradwire.v1 import model_pb2 as pb

OPERATIONS: dict[Operation, pb.Operation] = {
    Operation.PREDICT: pb.OPERATION_PREDICT,
    Operation.LOSS: pb.OPERATION_LOSS,
    Operation.LOSS_GRADIENT: pb.OPERATION_LOSS_GRADIENT,
    Operation.CLASS_GRADIENT: pb.OPERATION_CLASS_GRADIENT,
    Operation.GET_ACTIVATIONS: pb.OPERATION_GET_ACTIVATIONS,
    Operation.VJP: pb.OPERATION_VECTOR_JACOBIAN_PRODUCT,
    Operation.FIT: pb.OPERATION_FIT,
    Operation.FIT_BATCHES: pb.OPERATION_FIT_BATCHES,
    Operation.VERSIONS: pb.OPERATION_VERSIONS,
    Operation.CLONE: pb.OPERATION_CLONE,
}
assert set(OPERATIONS) == set(Operation)
assert set(OPERATIONS.values()) == set(pb.Operation.values()) - {pb.OPERATION_UNSPECIFIED}

ANSWERS: dict[Answer, estimator_pb2.Answer] = {
    Answer.OUTPUTS: estimator_pb2.ANSWER_OUTPUTS,
    Answer.LOGITS: estimator_pb2.ANSWER_LOGITS,
    Answer.UNCERTAINTY: estimator_pb2.ANSWER_UNCERTAINTY,
    Answer.MEMBERS: estimator_pb2.ANSWER_MEMBERS,
}
assert set(ANSWERS) == set(Answer)
assert set(ANSWERS.values()) == set(estimator_pb2.Answer.values()) - {estimator_pb2.ANSWER_UNSPECIFIED}

CONTRACT: dict[AccessLevel, pb.Access] = {
    "labels": pb.ACCESS_LABELS,
    "scores": pb.ACCESS_SCORES,
    "gradients": pb.ACCESS_GRADIENTS,
    "trainer": pb.ACCESS_TRAINER,
}
"""Values of the access levels in the contract."""
