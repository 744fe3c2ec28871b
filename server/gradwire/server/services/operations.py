"""The operations on rows: what each takes from a request, and how it becomes work on row blocks. One table.

A plan is a call made ready: labels checked and in one form, options read. It knows nothing of streams.
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
from gradwire.server.catalogue.granted import Granted
from gradwire.server.trust.grants.rounding import rounded
from gradwire.server.values.contract import ANSWERS
from gradwire.server.values.rows import Rows
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_FRAME
from gradwire.v1.tensor_pb2 import CODEC_UNSPECIFIED, Codec
from gradwire.wire.errors import WireError
from gradwire.wire.tensors import inline, spec_of

_MAX_STANDARDISATION_BYTES = 1 << 20
"""Of a caller's own mean or std; an array of an image's shape fits."""

_FORWARD = Rows(1, 0)

_ANSWERS: dict[int, Answer] = {number: answer for answer, number in ANSWERS.items()}
_OUTPUTS = (pb.ANSWER_UNSPECIFIED, pb.ANSWER_OUTPUTS)


def _as_it_is(result: Array) -> Array:
    return result


@dataclass
class Plan:
    """One call as work on row blocks.

    Attributes:
        function: Computes a block: its rows, then what `block_arguments` gives.
        rows_argument: The name under which ``function`` takes the rows.
        options: The same for all blocks.
        per_row: Arrays with one entry a row of the call; each block gets its part.
        cost: Rows used by each row of the call, forward and backward.
        outputs_per_row: How many results of a row's size a row has; bounds the rows in a block.
        mean_over: Labels of the whole call, where a mean over its rows is taken.
        reduce: Makes one result of all blocks' results and the divisor of the mean; None: they are joined along axis 0.
        result_codec: What the result should travel in.
        finish: What results go through before the caller sees them.
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
    finish: Callable[[Array], Array] = _as_it_is

    def costs(self, rows: int) -> Rows:
        """What so many rows of the call are charged."""
        return Rows(self.cost.forward * rows, self.cost.backward * rows)

    def rows(self, block: Array, begin: int, whole: bool) -> dict[str, Array]:
        """The arguments of a block that hold one entry a row; ``begin`` is where the block stands in the call."""
        if whole:
            return {self.rows_argument: block, **self.per_row}
        end = begin + len(block)
        return {self.rows_argument: block, **{name: array[begin:end] for name, array in self.per_row.items()}}


class Prepare(Protocol):
    """Makes a call ready: what was granted, the request's ``open``, the number of rows, the tensors held whole, by name."""

    def __call__(self, granted: Granted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan: ...


@dataclass(frozen=True)
class RowOperation:
    """One row of the table.

    Attributes:
        method: The contract's name of the stream.
        operation: What a caller must have been granted.
        request: The message that requests are made of.
        held: Tensors before the last one, by name; required unless in ``optional``.
        prepare: Makes a call ready.
        optional: Of ``held``, those that may be left out.
        streamed: What the last tensor may be called.
    """

    method: str
    operation: Operation
    request: type[Any]
    held: tuple[str, ...]
    prepare: Prepare
    optional: frozenset[str] = frozenset()
    streamed: tuple[str, ...] = ("x",)

    def check_names(self, names: tuple[str, ...]) -> None:
        """Checks which tensors a call declares. Raises WireError."""
        held, streamed = names[:-1], names[-1:]
        missing = set(self.held) - self.optional - set(held)
        if not streamed or streamed[0] not in self.streamed or missing or set(held) - set(self.held) or len(set(held)) < len(held):
            expected = [*(f"[{name}]" if name in self.optional else name for name in self.held), " or ".join(self.streamed)]
            raise WireError(
                ERROR_REASON_BAD_FRAME,
                f"{self.method} got tensors ({', '.join(names)}); expected ({', '.join(expected)}) in this order",
            )


def row_options(estimator: Estimator, options: pb.RowOptions) -> dict[str, Any]:
    """The options of a call as arguments of an estimator's operation."""
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


def _predict(granted: Granted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
    options, grant = row_options(granted.estimator, opened.options), granted.grant
    if opened.answer not in _OUTPUTS:
        kind = _answer(granted, opened.answer)
        return Plan(granted.estimator.answer, options={"kind": kind, **options})
    if granted.labels_only or grant.rounded:
        # Training mode would let a caller see through dropout's noise what is hidden.
        options.pop("training_mode", None)
    if granted.labels_only:
        options["labels_only"] = True
    plan = Plan(granted.estimator.predict, options=options)
    if grant.rounded:
        outputs_are = granted.estimator.model.output_kind
        plan.finish = partial(rounded, kind=outputs_are, decimals=grant.decimals, top_k=grant.top_k)
    return plan


def _answer(granted: Granted, number: int) -> Answer:
    if number not in _ANSWERS:
        known = ", ".join(sorted(answer.value for answer in granted.answers))
        raise InvalidValue(f"answer number {number} is not in the contract; {granted.name!r} answers: {known}")
    granted.allow_answer(_ANSWERS[number])
    return _ANSWERS[number]


def _loss(granted: Granted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
    estimator = granted.estimator
    y = estimator.prepare_labels(held["y"], rows)
    plan = Plan(estimator.loss, options=row_options(estimator, opened.options), per_row={"y": y})
    if opened.reduction == pb.REDUCTION_MEAN:
        plan.mean_over, plan.reduce = y, _mean
    elif opened.reduction == pb.REDUCTION_SUM:
        plan.reduce = _sum
    elif opened.reduction not in (pb.REDUCTION_UNSPECIFIED, pb.REDUCTION_NONE):
        raise InvalidValue(f"reduction number {opened.reduction} is not in the contract; expected none, mean or sum")
    return plan


def _loss_gradient(granted: Granted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
    estimator = granted.estimator
    y = estimator.prepare_labels(held["y"], rows)
    options = row_options(estimator, opened.options)
    mean_over = None
    if estimator.model.loss_reduction == "mean":
        # None: that of the block, if it is the whole call.
        mean_over, options["divisor"] = y, None
    return Plan(estimator.loss_gradient, options=options, per_row={"y": y}, cost=Rows(1, 1), mean_over=mean_over)


def _class_gradient(granted: Granted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
    estimator = granted.estimator
    if opened.HasField("label") and "label" in held:
        raise InvalidLabel("a class gradient got one label for all rows and one a row; expected one of the two")
    label = estimator.prepare_label(opened.label if opened.HasField("label") else held.get("label"), rows)
    options = row_options(estimator, opened.options)
    if label is None:
        classes = estimator.output_shape[0]
        return Plan(estimator.class_gradient, options={"label": None, **options}, cost=Rows(1, classes), outputs_per_row=classes)
    return Plan(estimator.class_gradient, options=options, per_row={"label": label}, cost=Rows(1, 1))


def _get_activations(granted: Granted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
    layer = _layer(opened)
    if layer is None:
        names = granted.estimator.model.layer_names
        raise InvalidLayer(f"no layer was named; expected a name or an index, for example one of: {', '.join(names[:20])}")
    return Plan(granted.estimator.get_activations, options={"layer": layer, **row_options(granted.estimator, opened.options)})


def _vjp(granted: Granted, opened: Any, rows: int, held: Mapping[str, Array]) -> Plan:
    cotangent = held["cotangent"]
    if cotangent.shape[:1] != (rows,):
        raise InvalidShape(f"cotangent has shape {cotangent.shape} for {rows} rows; expected one entry a row")
    layer = _layer(opened)
    if layer is not None:
        granted.allow_layer()
    options = {"layer": layer, **row_options(granted.estimator, opened.options)}
    return Plan(granted.estimator.vjp, options=options, per_row={"cotangent": cotangent}, cost=Rows(1, 1))


def _layer(opened: Any) -> str | int | None:
    which = opened.layer.WhichOneof("layer") if opened.HasField("layer") else None
    return None if which is None else getattr(opened.layer, which)


def _sum(losses: list[Array], divisor: float) -> Array:
    # In double precision, so that the value does not depend on how the rows were cut into blocks.
    return np.asarray(sum(float(block.sum(dtype=np.float64)) for block in losses), losses[0].dtype)


def _mean(losses: list[Array], divisor: float) -> Array:
    return np.asarray(float(_sum([block.astype(np.float64) for block in losses], 1.0)) / divisor, losses[0].dtype)


def loss_of_predictions(plan: Plan, estimator: Estimator) -> Plan:
    """The same loss, of outputs that the caller sends in place of rows."""
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
