"""Capabilities of a model, derived from the methods that it defines; they are declared nowhere else."""

from __future__ import annotations

from enum import Enum

from gradwire.backends.backend import Model


class Operation(str, Enum):
    """The estimator operations, by the names that users type."""

    PREDICT = "predict"
    LOSS = "loss"
    LOSS_GRADIENT = "loss_gradient"
    CLASS_GRADIENT = "class_gradient"
    GET_ACTIVATIONS = "get_activations"
    VJP = "vjp"
    FIT = "fit"
    FIT_BATCHES = "fit_generator"
    VERSIONS = "save"
    CLONE = "clone_for_refitting"


_DEFINED_BY: dict[Operation, tuple[tuple[str, ...], ...]] = {
    # A model has an operation if it defines all names of one of the groups.
    Operation.PREDICT: (("predict",),),
    Operation.LOSS: (("loss", "loss_divisor"),),
    Operation.LOSS_GRADIENT: (("loss_gradient", "loss_divisor"),),
    Operation.CLASS_GRADIENT: (("class_gradient",),),
    Operation.GET_ACTIVATIONS: (("activations",),),
    Operation.VJP: (("vjp",),),
    Operation.FIT: (("train_step", "snapshot", "rollback"), ("fit", "snapshot", "rollback")),
    Operation.FIT_BATCHES: (("train_step", "snapshot", "rollback"),),
    Operation.VERSIONS: (("save", "restore", "snapshot", "rollback"),),
    Operation.CLONE: (("untrained_clone",),),
}
assert set(_DEFINED_BY) == set(Operation)


class Answer(str, Enum):
    """Kinds of answers of predict, by the names that users type."""

    OUTPUTS = "outputs"
    LOGITS = "logits"
    UNCERTAINTY = "uncertainty"
    MEMBERS = "members"


_ANSWERED_BY: dict[Answer, str] = {
    Answer.OUTPUTS: "predict",
    Answer.LOGITS: "logits",
    Answer.UNCERTAINTY: "uncertainty",
    Answer.MEMBERS: "members",
}
assert set(_ANSWERED_BY) == set(Answer)


def capabilities(model: Model) -> frozenset[Operation]:
    """The operations that a model can carry out."""

    def defines(names: tuple[str, ...]) -> bool:
        return all(_defines(model, name) for name in names)

    return frozenset(operation for operation, groups in _DEFINED_BY.items() if any(map(defines, groups)))


def answers(model: Model) -> frozenset[Answer]:
    """The kinds of answers that predict of a model can give."""
    return frozenset(answer for answer, name in _ANSWERED_BY.items() if _defines(model, name))


def _defines(model: Model, name: str) -> bool:
    return callable(getattr(model, name, None))
