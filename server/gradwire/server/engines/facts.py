"""What must be known of a model where it is not: checks, cards and grants go by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.capabilities import Answer, Operation
from gradwire.backends.estimator import Estimator
from gradwire.backends.preprocessing import Standardisation

_FITS = {Operation.FIT, Operation.FIT_BATCHES}


@dataclass(frozen=True)
class Facts:
    """Of a loaded estimator, all that is not computed. Attributes are those of `Estimator` and of its model."""

    input_dtype: np.dtype[Any]
    output_kind: OutputKind
    layer_names: list[str]
    loss_name: str
    loss_reduction: Any
    device: str
    notes: list[str]
    capabilities: frozenset[Operation]
    answers: frozenset[Answer]
    coalesces: bool
    output_shape: tuple[int, ...]
    output_dtype: np.dtype[Any]
    standardisation: Standardisation | None
    postprocessed: bool


def facts_of(estimator: Estimator) -> Facts:
    """What there is to know of an estimator."""
    model = estimator.model
    return Facts(
        input_dtype=model.input_dtype,
        output_kind=model.output_kind,
        layer_names=list(model.layer_names),
        loss_name=model.loss_name,
        loss_reduction=model.loss_reduction,
        device=model.device,
        notes=list(model.notes),
        capabilities=_carried_out_elsewhere(estimator.capabilities),
        answers=estimator.answers,
        coalesces=estimator.coalesces,
        output_shape=estimator.output_shape,
        output_dtype=estimator.output_dtype,
        standardisation=estimator.preprocessing.standardisation,
        postprocessed=bool(estimator.postprocessing),
    )


def _carried_out_elsewhere(capabilities: frozenset[Operation]) -> frozenset[Operation]:
    """A clone would be a model of one replica alone, and what a fit has learnt must be brought to the others."""
    kept = capabilities - {Operation.CLONE}
    return kept if Operation.VERSIONS in kept else kept - _FITS


class Described:
    """A `backend.Model` that is known and not here.

    Args:
        facts: Of the model; those of which replica it is do not count.
    """

    may_wait = True
    fitted = True

    def __init__(self, facts: Facts) -> None:
        self.input_dtype = facts.input_dtype
        self.output_kind = facts.output_kind
        self.layer_names = facts.layer_names
        self.loss_name = facts.loss_name
        self.loss_reduction = facts.loss_reduction
        self.device = facts.device
        self.notes = facts.notes

    def predict(self, x: Array, *, training_mode: bool) -> NoReturn:
        """Never here."""
        raise AssertionError("a model that is elsewhere was asked here")
