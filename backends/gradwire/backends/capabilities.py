"""What a model can do follows from what it defines, and is declared nowhere else."""

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
    # An operation is there if all names of one of the groups are.
    Operation.PREDICT: (("predict",),),
    Operation.LOSS: (("loss", "loss_divisor"),),
    Operation.LOSS_GRADIENT: (("loss_gradient", "loss_divisor"),),
    Operation.CLASS_GRADIENT: (("class_gradient",),),
    Operation.GET_ACTIVATIONS: (("activations",),),
    Operation.VJP: (("vjp",),),
    Operation.FIT: (("train_step", "snapshot", "rollback"), ("fit", "snapshot", "rollback")),
    Operation.FIT_BATCHES: (("train_step", "snapshot", "rollback"),),
    Operation.VERSIONS: (("save", "restore", "snapshot", "rollback"),),
    Operation.CLONE: (("fresh",),),
}
assert set(_DEFINED_BY) == set(Operation)


def capabilities(model: Model) -> frozenset[Operation]:
    """The operations that a model can carry out."""

    def defines(names: tuple[str, ...]) -> bool:
        return all(callable(getattr(model, name, None)) for name in names)

    return frozenset(operation for operation, groups in _DEFINED_BY.items() if any(map(defines, groups)))
