"""Table of the operations on rows: the tensors of each, and how a request becomes work on row blocks.

A plan holds a call's function and arguments: labels checked and in one form, options read. It knows nothing of streams.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.capabilities import Answer, Operation
from gradwire.backends.errors import InvalidLabel, InvalidLayer, InvalidShape, InvalidValue
from gradwire.backends.estimator import Estimator
from gradwire.server.catalogue.admitted import Admitted
from gradwire.server.trust.grants.rounding import rounded
from gradwire.server.values.contract import ANSWERS
from gradwire.server.values.rows import Rows
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_FRAME
from gradwire.v1.tensor_pb2 import CODEC_UNSPECIFIED, Codec
from gradwire.wire.errors import WireError
from gradwire.wire.tensors import inline, spec_of

_MAX_STANDARDISATION_BYTES = 1 << 20
"""Largest mean or std of a caller's own; an array of an image's shape fits."""

_FORWARD = Rows(1, 0)

_ANSWERS: dict[int, Answer] = {number: answer for answer, number in ANSWERS.items()}
_OUTPUTS = (pb.ANSWER_UNSPECIFIED, pb.ANSWER_OUTPUTS)


@dataclass
class Plan:
    """Work of one call on row blocks.

    Attributes:
        function: Computes a block.
        rows_argument: Name of the argument that takes the rows.
        options: Arguments that are the same for all blocks.
        per_row: Arguments with one entry a row of the call; each block gets its part.
        cost: Rows charged for each row of the call, forward and backward.
        outputs_per_row: Results of a row's size that each row has; bounds the rows of a block.
        mean_over: Labels of the whole call, where the result is a mean over its rows.
        reduce: Makes one result from the blocks' results and the divisor of the mean; None: they are concatenated.
        result_codec: Codec of the result.
        finish: Changes results before the caller sees them; None: they stay as they are.
    """

    function: Callable[..., Array]
    rows_argument: str = "x"
    options: dict[str, Any] = field(default_factory=dict)
    per_row: dict[str, Array] = field(default_factory=dict)
    cost: Rows = _FORWARD
    outputs_per_row: int = 1
    mean_over: Array | None = None
    reduce: Callable[[list[Array], float], Array] | None = None
    result_codec: Codec = CODEC_UNSPECIFIED
    finish: Callable[[Array], Array] | None = None


class Prepare(Protocol):
    """Makes a call's plan from the served name, the field ``open``, the rows and the held tensors."""

    def __call__(self, admitted: Admitted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
        """Makes the plan of a call. Raises an error of the backend or the wire for bad arguments."""
        ...


@dataclass(frozen=True)
class RowOperation:
    """One row of the table.

    Attributes:
        method: Name of the method in the contract.
        operation: Operation that must be admitted.
        request: Type of the request's messages.
        held: Names of the tensors before the last one; required unless in ``optional``.
        prepare: Makes the plan of a call.
        optional: Names in ``held`` that may be left out.
        streamed: Names that the last tensor may have.
    """

    method: str
    operation: Operation
    request: type[Any]
    held: tuple[str, ...]
    prepare: Prepare
    optional: frozenset[str] = frozenset()
    streamed: tuple[str, ...] = ("x",)

    def check_names(self, names: tuple[str, ...]) -> None:
        """Checks the names of a call's tensors. Raises WireError."""
        held, streamed = names[:-1], names[-1:]
        missing = set(self.held) - self.optional - set(held)
        if not streamed or streamed[0] not in self.streamed or missing or set(held) - set(self.held) or len(set(held)) < len(held):
            expected = [*(f"[{name}]" if name in self.optional else name for name in self.held), " or ".join(self.streamed)]
            raise WireError(
                ERROR_REASON_BAD_FRAME,
                f"{self.method} got tensors ({', '.join(names)}); expected ({', '.join(expected)}) in this order",
            )


def row_options(estimator: Estimator, options: pb.RowOptions) -> dict[str, Any]:
    """Makes arguments of an estimator's operation from the options of a call."""
    result: dict[str, Any] = {}
    if options.training_mode:
        result["training_mode"] = True
    if options.HasField("standardisation"):
        mean, std = (_small(tensor) for tensor in (options.standardisation.mean, options.standardisation.std))
        result["standardisation"] = estimator.standardisation(mean, std)
    return result


def _small(tensor: Any) -> Array:
    spec = spec_of(tensor, _MAX_STANDARDISATION_BYTES, "of mean and std")
    return inline(tensor.data, spec)


def _predict(admitted: Admitted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
    options, grant = row_options(admitted.estimator, opened.options), admitted.grant
    if opened.answer not in _OUTPUTS:
        kind = _answer(admitted, opened.answer)
        return Plan(admitted.estimator.answer, options={"kind": kind, **options})
    if admitted.labels_only or grant.rounded:
        # With training mode, dropout's noise would show what labels and rounding hide.
        options.pop("training_mode", None)
    if admitted.labels_only:
        options["labels_only"] = True
    plan = Plan(admitted.estimator.predict, options=options)
    if grant.rounded:
        outputs_are = admitted.estimator.model.output_kind
        plan.finish = partial(rounded, kind=outputs_are, decimals=grant.decimals, top_k=grant.top_k)
    return plan


def _answer(admitted: Admitted, number: int) -> Answer:
    if number not in _ANSWERS:
        known = ", ".join(sorted(answer.value for answer in admitted.answers))
        raise InvalidValue(f"answer number {number} is not in the contract; {admitted.name!r} answers: {known}")
    admitted.check_answer(_ANSWERS[number])
    return _ANSWERS[number]


def _loss(admitted: Admitted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
    estimator = admitted.estimator
    y = estimator.prepare_labels(held["y"], rows)
    plan = Plan(estimator.loss, options=row_options(estimator, opened.options), per_row={"y": y})
    if opened.reduction == pb.REDUCTION_MEAN:
        plan.mean_over, plan.reduce = y, _mean
    elif opened.reduction == pb.REDUCTION_SUM:
        plan.reduce = _sum
    elif opened.reduction not in (pb.REDUCTION_UNSPECIFIED, pb.REDUCTION_NONE):
        raise InvalidValue(f"reduction number {opened.reduction} is not in the contract; expected none, mean or sum")
    return plan


def _loss_gradient(admitted: Admitted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
    estimator = admitted.estimator
    y = estimator.prepare_labels(held["y"], rows)
    options = row_options(estimator, opened.options)
    mean_over = None
    if estimator.model.loss_reduction == "mean":
        # None: the divisor of the block, if it is the whole call.
        mean_over, options["divisor"] = y, None
    return Plan(estimator.loss_gradient, options=options, per_row={"y": y}, cost=Rows(1, 1), mean_over=mean_over)


def _class_gradient(admitted: Admitted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
    estimator = admitted.estimator
    if opened.HasField("label") and "label" in held:
        raise InvalidLabel("a class gradient got one label for all rows and one for each row; expected one of the two")
    label = estimator.prepare_label(opened.label if opened.HasField("label") else held.get("label"), rows)
    options = row_options(estimator, opened.options)
    if label is None:
        classes = estimator.output_shape[0]
        return Plan(estimator.class_gradient, options={"label": None, **options}, cost=Rows(1, classes), outputs_per_row=classes)
    return Plan(estimator.class_gradient, options=options, per_row={"label": label}, cost=Rows(1, 1))


def _get_activations(admitted: Admitted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
    layer = _layer(opened)
    if layer is None:
        names = admitted.estimator.model.layer_names
        raise InvalidLayer(f"no layer is named; expected a name or an index, for example one of: {', '.join(names[:20])}")
    return Plan(admitted.estimator.get_activations, options={"layer": layer, **row_options(admitted.estimator, opened.options)})


def _vjp(admitted: Admitted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
    cotangent = held["cotangent"]
    if cotangent.shape[:1] != (rows,):
        raise InvalidShape(f"cotangent has shape {cotangent.shape} for {rows} rows; expected one entry a row")
    layer = _layer(opened)
    if layer is not None:
        admitted.check_layer()
    options = {"layer": layer, **row_options(admitted.estimator, opened.options)}
    return Plan(admitted.estimator.vjp, options=options, per_row={"cotangent": cotangent}, cost=Rows(1, 1))


def _layer(opened: Any) -> str | int | None:
    which = opened.layer.WhichOneof("layer") if opened.HasField("layer") else None
    return None if which is None else getattr(opened.layer, which)


def _sum(losses: list[Array], divisor: float) -> Array:
    # In double precision, so that the value does not depend on how the rows were cut into blocks.
    return np.asarray(sum(float(block.sum(dtype=np.float64)) for block in losses), losses[0].dtype)


def _mean(losses: list[Array], divisor: float) -> Array:
    return np.asarray(float(_sum([block.astype(np.float64) for block in losses], 1.0)) / divisor, losses[0].dtype)


def loss_of_predictions(plan: Plan, estimator: Estimator) -> Plan:
    """Changes the plan of a loss to outputs that the caller sends in place of inputs."""
    plan.function, plan.rows_argument, plan.options, plan.cost = estimator.loss_from_predictions, "predictions", {}, Rows()
    return plan


OPERATIONS: tuple[RowOperation, ...] = (
    RowOperation("Predict", Operation.PREDICT, pb.PredictRequest, (), _predict),
    RowOperation("Loss", Operation.LOSS, pb.LossRequest, ("y",), _loss, streamed=("x", "predictions")),
    RowOperation("LossGradient", Operation.LOSS_GRADIENT, pb.LossGradientRequest, ("y",), _loss_gradient),
    RowOperation(
        "ClassGradient",
        Operation.CLASS_GRADIENT,
        pb.ClassGradientRequest,
        ("label",),
        _class_gradient,
        optional=frozenset({"label"}),
    ),
    RowOperation("GetActivations", Operation.GET_ACTIVATIONS, pb.GetActivationsRequest, (), _get_activations),
    RowOperation("VectorJacobianProduct", Operation.VJP, pb.VectorJacobianProductRequest, ("cotangent",), _vjp),
)
