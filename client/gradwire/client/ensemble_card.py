"""Card of an ensemble, from the cards of its members. Raises InvalidCall for members that cannot be summed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from gradwire.client.card import Limits, ModelCard
from gradwire.client.errors import InvalidCall
from gradwire.wire.names import ACCESS_LEVELS

_OPERATIONS = frozenset({"predict", "loss", "loss_gradient", "class_gradient", "vjp"})
"""Operations of an ensemble, if all of its members have them."""

_ACCESS = tuple(ACCESS_LEVELS)


def card_of_ensemble(cards: Sequence[ModelCard], weights: Sequence[float], overrides: Mapping[str, Any]) -> ModelCard:
    """Makes the card of an ensemble.

    Args:
        cards: The members' cards.
        weights: One per member.
        overrides: ``output_kind``, ``clip_values`` and ``channels_first`` to use in place of the members'; None: the members'.

    Raises:
        InvalidCall: The members cannot be summed, or differ in a value that is not given.
    """
    operations = _OPERATIONS.intersection(*(card.operations for card in cards))
    names = [card.name for card in cards]
    losses = zip(weights, (f"({card.loss})" if " + " in card.loss else card.loss for card in cards), strict=True)
    kind = _output_kind(cards, weights, overrides["output_kind"])
    return ModelCard(
        name=f"ensemble of {', '.join(names)}",
        backend="ensemble",
        task=_same("task", cards),
        input_shape=_same("input_shape", cards),
        input_dtype=np.result_type(*(card.input_dtype for card in cards)),
        output_shape=_same("output_shape", cards),
        output_dtype=np.result_type(*(card.output_dtype for card in cards)),
        nb_classes=_same("nb_classes", cards),
        output_kind=kind,
        answers=frozenset({"outputs", "members"}),
        clip_values=_agreed("clip_values", cards, overrides),
        channels_first=_agreed("channels_first", cards, overrides),
        layer_names=(),
        access=min((card.access for card in cards), key=lambda access: _ACCESS.index(access) if access in _ACCESS else -1),
        operations=operations,
        loss=" + ".join(f"{weight:g} * {loss}" for weight, loss in losses) if "loss" in operations else "",
        loss_reduction="mean",
        version=" ".join(f"{name}({card.version})" for name, card in zip(names, cards, strict=True)),
        device=", ".join(dict.fromkeys(card.device for card in cards)),
        notes=tuple(f"{card.name}: {note}" for card in cards for note in card.notes),
        preprocessing=None,
        preprocessing_defences=(),
        postprocessing_defences=(),
        clone_of="",
        # 0 is no limit.
        limits=Limits(
            *(min((most for card in cards if (most := getattr(card.limits, field.name))), default=0) for field in fields(Limits))
        ),
    )


def _same(key: str, cards: Sequence[ModelCard]) -> Any:
    values = [getattr(card, key) for card in cards]
    if any(value != values[0] for value in values):
        raise InvalidCall(f"members: {key} differs: {_listed(values, cards)}; members must be equal in it to be summed")
    return values[0]


def _agreed(key: str, cards: Sequence[ModelCard], overrides: Mapping[str, Any]) -> Any:
    """Returns the given value, or the one on which the members' cards agree."""
    if overrides[key] is not None:
        return overrides[key]
    values = [(getattr(card, key), card) for card in cards if getattr(card, key) is not None]
    if not all(_equal(value, values[0][0]) for value, _ in values):
        given = _listed([value for value, _ in values], [card for _, card in values])
        raise InvalidCall(f"members: {key} differs: {given}; pass {key}= for the ensemble")
    return values[0][0] if values else None


def _output_kind(cards: Sequence[ModelCard], weights: Sequence[float], output: str | None) -> str:
    """Returns the kind of the sums. Members of different kinds, or with one-hot rows, need the caller's ``output``."""
    kinds = [card.output_kind for card in cards]
    if output not in (None, "logits", "probabilities", "values"):
        raise InvalidCall(f"output is {output!r:.100}; expected logits, probabilities or values")
    if output is None and (len(set(kinds)) > 1 or "labels" in kinds):
        raise InvalidCall(
            f"members: outputs are {_listed(kinds, cards)}; expected all logits or all probabilities; pass output= to set the "
            "kind of the weighted sum"
        )
    kind = output or kinds[0]
    if kind == "probabilities" and (min(weights) < 0 or not math.isclose(sum(weights), 1.0, rel_tol=1e-6)):
        raise InvalidCall(
            f"weights {list(weights)} add up to {sum(weights):g}; a sum of probabilities needs weights of at least 0 that add "
            'up to 1, or output="values"'
        )
    return kind


def _listed(values: list[Any], cards: Sequence[ModelCard]) -> str:
    return ", ".join(f"{card.name} {value}" for value, card in zip(values, cards, strict=True))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return all(map(np.array_equal, one, other))
    return bool(one == other)
