"""Facts about a model that the front of its replicas needs: for checks, cards and grants."""

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
    """Attributes of a loaded estimator and its model, under the names that they have there."""

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
    """Collects the facts about an estimator."""
    model = estimator.model
    return Facts(
        input_dtype=model.input_dtype,
        output_kind=model.output_kind,
        layer_names=list(model.layer_names),
        loss_name=model.loss_name,
        loss_reduction=model.loss_reduction,
        device=model.device,
        notes=list(model.notes),
        capabilities=_possible_with_replicas(estimator.capabilities),
        answers=estimator.answers,
        coalesces=estimator.coalesces,
        output_shape=estimator.output_shape,
        output_dtype=estimator.output_dtype,
        standardisation=estimator.preprocessing.standardisation,
        postprocessed=bool(estimator.postprocessing),
    )


def _possible_with_replicas(capabilities: frozenset[Operation]) -> frozenset[Operation]:
    """Operations without clones, which would exist in one replica only, and without fits if weights cannot be copied."""
    kept = capabilities - {Operation.CLONE}
    return kept if Operation.VERSIONS in kept else kept - _FITS


class RemoteModel:
    """Stand-in for a model of replicas, with the attributes of `backend.Model`.

    Args:
        facts: Facts about the model, from any replica.
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
        """Never called: replicas predict."""
        raise AssertionError("the front of replicas cannot predict")
