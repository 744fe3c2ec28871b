"""Ensembles: weighted sums of the outputs of other models of the same configuration.

An ensemble has no framework weights: it calls its members, each with its own preprocessing and in its own precision,
and adds up. A fit of a member changes the ensemble too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from operator import add
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.capabilities import Operation
from gradwire.backends.config import ModelConfig
from gradwire.backends.errors import InvalidInput, InvalidLayer, ModelConfigError, ModelFailed, OutOfMemory, Unsupported
from gradwire.backends.estimator import Estimator


class Config(ModelConfig):
    """Keys of an ensemble. Keys on which its members agree (`input_shape`, `nb_classes`, ...) may be left out."""

    members: list[str] = Field(min_length=1)
    """Names of other models of the same configuration; they may be ensembles."""
    member_weights: list[float] | None = None
    """One weight a member; equal weights that sum to 1 if not set."""
    input_shape: tuple[int, ...] = Field(default=(), min_length=1)
    nb_classes: int = Field(default=0, ge=1)

    @property
    def made_of(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(self.members)

    @field_validator("weights", "trust_pickle", "device", "preprocessing", "preprocessing_defences", mode="before")
    @classmethod
    def _not_its_own(cls, value: Any) -> Any:
        raise ValueError(
            "an ensemble has none of its own: its members are loaded, placed and preprocessed by their own keys "
            "(the weights of the sum are member_weights); leave the key out"
        )

    @field_validator("members")
    @classmethod
    def _each_once(cls, members: list[str]) -> list[str]:
        twice = [name for index, name in enumerate(members) if name in members[:index]]
        if twice:
            raise ValueError(f"{twice[0]!r} is listed twice; list it once, with the sum of its weights in member_weights")
        return members

    @field_validator("member_weights")
    @classmethod
    def _one_a_member(cls, weights: list[float] | None, info: ValidationInfo) -> list[float] | None:
        members = info.data.get("members", [])  # missing if they are invalid themselves
        if weights is not None and members and (len(weights) != len(members) or not all(map(math.isfinite, weights))):
            raise ValueError(f"expected one finite number for each of the {len(members)} members")
        return weights

    def completed(self, members: Mapping[str, ModelConfig]) -> Config:
        """As in `ModelConfig`, with keys on which the members agree. Raises ModelConfigError for members that cannot be added."""
        for key in ("task", "nb_classes"):
            values = {name: getattr(config, key) for name, config in members.items()}
            if len(set(values.values())) > 1:
                raise ModelConfigError("members", f"{key} differs: {_listed(values)}; expected the same for all members")
            if key in self.model_fields_set and getattr(self, key) not in values.values():
                raise ModelConfigError(key, f"given {getattr(self, key)!r}; the members have {next(iter(values.values()))!r}")
        first = next(iter(members.values()))
        taken: dict[str, Any] = {"task": first.task, "nb_classes": first.nb_classes}
        for key in ("input_shape", "clip_values", "channels_first", "max_batch_rows"):
            if key not in self.model_fields_set:
                taken[key] = _agreed(key, members)
        result = self.model_copy(update=taken)
        for name, config in members.items():
            fits = zip(result.input_shape, config.input_shape, strict=False)
            if len(result.input_shape) != len(config.input_shape) or any(theirs not in (-1, own) for own, theirs in fits):
                given = f"given {list(result.input_shape)}; {name!r} takes {list(config.input_shape)}"
                raise ModelConfigError("input_shape", f"{given}, and an ensemble sends the same rows to every member")
        return result


def load(config: Config, members: Mapping[str, Estimator]) -> EnsembleModel:
    """The model that a configuration describes.

    Args:
        config: Completed, see `Config.completed`.
        members: The loaded members by name, in the order of ``config.members``.

    Raises:
        ModelConfigError: The members' inputs or outputs cannot be combined.
    """
    return EnsembleModel(config, members)


class EnsembleModel:
    """Ensemble with the operations of `backend.Model` and `backend.Differentiable`.

    Outputs, row losses and gradients are sums of the members', each times its weight. Outputs are summed after the members'
    postprocessing, as their callers get them; gradients are of outputs before it, as everywhere. An operation that a member
    does not have is None on the instance.

    Args:
        config: The model's configuration.
        members: The loaded members by name.
    """

    def __init__(self, config: Config, members: Mapping[str, Estimator]) -> None:
        self._members = dict(members)
        self._weights = config.member_weights or [1 / len(members)] * len(members)
        models = [member.model for member in members.values()]
        self.input_dtype: np.dtype[Any] = _input_dtype(self._members)
        self.output_kind: OutputKind = _output_kind(config, self._members, self._weights)
        _check_output_shapes(self._members)
        self.may_wait = any(model.may_wait for model in models)
        self.coalesces = all(member.coalesces for member in members.values())
        self.layer_names: list[str] = []
        self.device = ", ".join(dict.fromkeys(model.device for model in models))
        everywhere = frozenset(Operation).intersection(*(member.capabilities for member in members.values()))
        for operation, method in _NEEDS.items():
            if operation not in everywhere:
                setattr(self, method, None)
        has_loss = Operation.LOSS in everywhere or Operation.LOSS_GRADIENT in everywhere
        names = [f"({model.loss_name})" if " + " in model.loss_name else model.loss_name for model in models]
        counted = zip(self._weights, names, strict=True)
        self.loss_name = " + ".join(f"{weight:g} * {name}" for weight, name in counted) if has_loss else ""
        self.loss_reduction: Literal["mean", "sum"] = "mean"
        self.notes = self._notes()

    @property
    def fitted(self) -> bool:
        """True once all members can predict."""
        return all(member.model.fitted for member in self._members.values())

    @property
    def version(self) -> str:
        """The members' versions: "initial", or for example ``digits(fit-1) svm(initial)``."""
        versions = {name: member.version for name, member in self._members.items()}
        if set(versions.values()) == {"initial"}:
            return "initial"
        return " ".join(f"{name}({version})" for name, version in versions.items())

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Weighted sum of the members' outputs, ``(n, C)``."""
        return _sum(self._outputs(x, training_mode))

    def members(self, x: Array, *, training_mode: bool) -> Array:
        """Summands of `predict`, ``(n, k, C)`` for ``k`` members: their outputs, each times its weight."""
        return np.stack(list(self._outputs(x, training_mode)), axis=1)

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """Weighted sum of the members' losses of each row, ``(n,)``."""
        return _sum(self._each(x, lambda member, rows: member.loss(rows, y, training_mode=training_mode)))

    def loss_divisor(self, y: Array) -> float:
        """Number of rows, also if a member's own mean weighs them by class: members' losses are added row by row."""
        return float(len(y))

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """Weighted sum of the members' gradients of the summed loss, in the shape of ``x``."""

        def of_sum(member: Estimator, rows: Array) -> Array:
            return member.loss_gradient(rows, y, divisor=1.0, training_mode=training_mode)

        return _sum(self._each(x, of_sum))

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """Weighted sum of the members' class gradients, ``(n, C, *input_shape)`` or ``(n, 1, *input_shape)``."""
        return _sum(self._each(x, lambda member, rows: member.class_gradient(rows, label, training_mode=training_mode)))

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        """The cotangent times the Jacobian of the summed outputs, in the shape of ``x``. Raises InvalidLayer for any layer."""
        if layer is not None:
            raise InvalidLayer(f"layer {layer!r}: an ensemble has no layers; leave it out for the outputs, or call a member")
        return _sum(self._each(x, lambda member, rows: member.vjp(rows, cotangent, training_mode=training_mode)))

    # Private.

    def _outputs(self, x: Array, training_mode: bool) -> Iterator[Array]:
        return self._each(x, lambda member, rows: member.predict(rows, training_mode=training_mode))

    def _each(self, x: Array, ask: Callable[[Estimator, Array], Array]) -> Iterator[Array]:
        """Results of each member for rows in its own precision, times its weight. An error names the member."""
        shape: tuple[int, ...] | None = None
        for (name, member), weight in zip(self._members.items(), self._weights, strict=True):
            # A defence is the owner's code: it may work in place on its rows.
            rows = x.astype(member.model.input_dtype, copy=member.preprocessing.has_predict_defences)
            try:
                answer = weight * ask(member, rows)
            except (InvalidInput, Unsupported, OutOfMemory, ModelFailed) as e:
                raise type(e)(f"member {name!r}: {e}") from e
            # Numpy would add (n, 1) to (n, 2).
            if shape not in (None, answer.shape):
                given = f"member {name!r} answers {answer.shape}, those before it {shape}"
                raise ModelFailed(f"{given}; all must have the same shape: check the classes that each was fitted to")
            shape = answer.shape
            yield answer

    def _notes(self) -> list[str]:
        counted = zip(self._members, self._weights, strict=True)
        notes = [f"a weighted sum of {', '.join(f'{name} ({weight:g})' for name, weight in counted)}; a fit of one changes it"]
        if any(member.postprocessing for member in self._members.values()):
            notes.append("gradients are of the members' outputs before their postprocessing")
        return notes + [f"{name}: {note}" for name, member in self._members.items() for note in member.model.notes]


_NEEDS = {
    Operation.LOSS: "loss",
    Operation.LOSS_GRADIENT: "loss_gradient",
    Operation.CLASS_GRADIENT: "class_gradient",
    Operation.VJP: "vjp",
}
"""Methods of the operations that an ensemble has only if all of its members have them."""


def _sum(parts: Iterator[Array]) -> Array:
    return reduce(add, parts)


def _agreed(key: str, members: Mapping[str, ModelConfig]) -> Any:
    """The members' common value of a key, among those that set it; of ``max_batch_rows`` the smallest. Raises ModelConfigError."""
    values = {name: value for name, config in members.items() if (value := getattr(config, key)) is not None}
    if key == "max_batch_rows":
        return min(values.values())
    different = [value for index, value in enumerate(values.values()) if value not in list(values.values())[:index]]
    if len(different) > 1:
        raise ModelConfigError(key, f"differs between the members: {_listed(values)}; set it for the ensemble")
    return different[0] if different else None


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {list(value) if isinstance(value, tuple) else value}" for name, value in values.items())


def _input_dtype(members: Mapping[str, Estimator]) -> np.dtype[Any]:
    dtypes = {name: np.dtype(member.model.input_dtype) for name, member in members.items()}
    if len({dtype.kind for dtype in dtypes.values()}) > 1:
        raise ModelConfigError(
            "members", f"some take integers and some floats: {_listed(dtypes)}; expected all integers or all floats"
        )
    return np.result_type(*dtypes.values())


def _output_kind(config: Config, members: Mapping[str, Estimator], weights: list[float]) -> OutputKind:
    """Kind of the sums. Logits, probabilities and one-hot rows are not added to each other unless ``output`` is set."""
    kinds = {name: member.model.output_kind for name, member in members.items()}
    if config.output is None and (len(set(kinds.values())) > 1 or "labels" in kinds.values()):
        raise ModelConfigError(
            "members",
            f"outputs are {_listed(kinds)}; expected all logits or all probabilities. Set output in the members to one of "
            "these, or in the ensemble to the kind of the weighted sum",
        )
    kind = next(iter(kinds.values())) if config.output is None else config.output
    if kind == "probabilities" and (min(weights) < 0 or not math.isclose(sum(weights), 1.0, rel_tol=1e-6)):
        raise ModelConfigError(
            "member_weights",
            f"{weights} add up to {sum(weights):g}; for probabilities, weights must be at least 0 and add up to 1 "
            "(or set output: values)",
        )
    return kind


def _check_output_shapes(members: Mapping[str, Estimator]) -> None:
    shapes = {name: member.output_shape for name, member in members.items() if member.model.fitted}
    if len(set(shapes.values())) > 1:
        raise ModelConfigError("members", f"a row has outputs of shapes {_listed(shapes)}; expected the same for all members")
