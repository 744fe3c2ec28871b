"""Ensemble of remote models, summed in the client: members may be on different servers, which work in parallel.

The operations are weighted sums of the members' operations, as in ART's ``EnsembleClassifier`` and in a served ensemble.
`RemoteEnsemble.card` describes the ensemble, so that `gradwire.client.art` and `gradwire.client.torch` accept one in place of
a remote model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add
from typing import Any, NoReturn

import numpy as np

from gradwire.client import arguments
from gradwire.client.attributes import ModelAttributes
from gradwire.client.card import ModelCard
from gradwire.client.ensemble_card import card_of_ensemble
from gradwire.client.errors import GradwireError, InvalidCall, ServerError, Unsupported
from gradwire.client.estimator import RemoteEstimator
from gradwire.wire.tensors import Array

_THREADS_A_MEMBER = 8
"""Concurrent calls to one member, from callers that share an ensemble; each caller's own thread comes on top."""


class RemoteEnsemble(ModelAttributes):
    """A weighted sum of remote models. Threads may share it, and it can be pickled and copied.

    Each member preprocesses its own inputs and gets rows in its own precision. The ensemble's loss is the weighted sum of the
    members' own losses, per row and per call: means count as means, and sums are divided by the rows.

    Args:
        members: Classifiers, or regressions, with the same inputs and outputs.
        weights: One number per member; None: equal weights with sum 1.
        output: The kind of the sums: "logits", "probabilities" or "values"; required if members differ.
        clip_values: As for `RemoteEstimator.set_params`; required if members differ.
        channels_first: Whether images have their channels first; required if members differ.

    Attributes:
        members: The models.
        weights: One float per member.
        card: The card of the ensemble; `refresh` fetches the members' cards again.

    Raises:
        InvalidCall: The members cannot be summed, or the weights are not numbers. By any method: an argument is wrong.
        Unsupported: By any method: a member does not offer the operation to this caller.
        GradwireError: By any method, as a subclass: a member's call failed; the text names the member.
    """

    _settable = frozenset({"clip_values"})

    def __init__(
        self,
        members: Sequence[RemoteEstimator],
        weights: Sequence[float] | None = None,
        *,
        output: str | None = None,
        clip_values: Any = None,
        channels_first: bool | None = None,
    ) -> None:
        self.members = _members(members)
        self.weights = _weights(weights, len(self.members))
        self._overrides = {
            "output_kind": output,
            "clip_values": arguments.clip_values(clip_values),
            "channels_first": channels_first,
        }
        super().__init__(card_of_ensemble([member.card for member in self.members], self.weights, self._overrides))
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def refresh(self) -> ModelCard:
        """Fetches the members' cards again: a fit makes a new version, and an owner may change the access."""
        for member in self.members:
            member.refresh()
        self.card = card_of_ensemble([member.card for member in self.members], self.weights, self._overrides)
        return self.card

    def predict(
        self, x: Any, batch_size: int = 0, training_mode: bool | None = None, logits: bool = False, raw: bool = False
    ) -> Array:
        """Returns the weighted sum of the members' outputs.

        Args:
            x: ``(n, *input_shape)``.
            batch_size: Most rows that a server computes at once; 0: the server chooses.
            training_mode: Layers behave as in training; None: as set by `set_learning_phase`.
            logits: Must be False: an ensemble has outputs only.
            raw: Return the weighted outputs in place of their sum.

        Returns:
            ``(n, C)``; if raw ``(k, n, C)`` for ``k`` members, each one's outputs times its weight.
        """
        if logits:
            raise Unsupported("logits=True is not possible for an ensemble, which has its members' outputs only; call a member")
        x, mode = arguments.rows(x, self.card), self._mode(training_mode)
        return self._joined(lambda member: member.predict(x, batch_size, mode), raw)

    def predict_uncertainty(self, x: Any) -> NoReturn:
        """Raises Unsupported: an ensemble has no uncertainty."""
        raise Unsupported("an ensemble has no uncertainty; call a member")

    def compute_loss(
        self, x: Any, y: Any, reduction: str = "none", batch_size: int = 0, training_mode: bool | None = None
    ) -> Array:
        """Returns the weighted sum of the members' losses. Arguments and result as for `RemoteEstimator.compute_loss`."""
        self._require("loss")
        x, y = arguments.labelled_rows(x, y, self.card)
        mode = self._mode(training_mode)
        arguments.reduction(reduction)

        def loss(member: RemoteEstimator) -> Array:
            if reduction == "mean" and member.card.loss_reduction == "sum":
                return member.compute_loss(x, y, "sum", batch_size, mode) / len(x)
            return member.compute_loss(x, y, reduction, batch_size, mode)

        return np.asarray(self._joined(loss))

    loss = compute_loss

    def compute_loss_from_predictions(self, pred: Any, y: Any, reduction: str = "none") -> NoReturn:
        """Raises Unsupported: the loss of an ensemble needs its members' outputs."""
        raise Unsupported("the loss of an ensemble needs its members' outputs, not their sum; use compute_loss")

    def loss_gradient(self, x: Any, y: Any, batch_size: int = 0, training_mode: bool | None = None, raw: bool = False) -> Array:
        """Returns the gradient of the ensemble's loss, `compute_loss` with ``reduction="mean"``, with respect to the inputs.

        Arguments as for `compute_loss`.

        Returns:
            ``(n, *input_shape)``; if raw the members' weighted gradients ``(k, n, *input_shape)``.
        """
        self._require("loss_gradient")
        x, y = arguments.labelled_rows(x, y, self.card)
        mode = self._mode(training_mode)

        def gradient(member: RemoteEstimator) -> Array:
            result = member.loss_gradient(x, y, batch_size, mode)
            return result / len(x) if member.card.loss_reduction == "sum" else result

        return self._joined(gradient, raw)

    def class_gradient(
        self, x: Any, label: Any = None, batch_size: int = 0, training_mode: bool | None = None, raw: bool = False
    ) -> Array:
        """Returns gradients of the class outputs with respect to the inputs.

        Arguments as for `RemoteEstimator.class_gradient`.

        Returns:
            ``(n, C, *input_shape)`` for every class, otherwise ``(n, 1, *input_shape)``; if raw the members'
            weighted gradients, with a first axis for members.
        """
        self._require("class_gradient")
        x, mode = arguments.rows(x, self.card), self._mode(training_mode)
        label = arguments.label(label, len(x), self.card)
        return self._joined(lambda member: member.class_gradient(x, label, batch_size, mode), raw)

    def vjp(
        self, x: Any, cotangent: Any, layer: str | int | None = None, batch_size: int = 0, training_mode: bool | None = None
    ) -> Array:
        """Returns the product of a cotangent with the Jacobian of the outputs. As `RemoteEstimator.vjp`, without layers."""
        self._require("vjp")
        if layer is not None:
            raise _no_layers(layer)
        x, mode = arguments.rows(x, self.card), self._mode(training_mode)
        cotangent = arguments.cotangent(cotangent, len(x), self.card)
        return self._joined(lambda member: member.vjp(x, cotangent, None, batch_size, mode))

    def custom_loss_gradient(
        self,
        loss_cotangent: Callable[..., Any],
        x: Any,
        y: Any = None,
        layer_name: str | int | None = None,
        training_mode: bool | None = None,
    ) -> Array:
        """Returns the gradient of a loss of the ensemble's outputs. As `RemoteEstimator.custom_loss_gradient`."""
        if layer_name is not None:
            raise _no_layers(layer_name)
        seen = [self.predict(inputs, training_mode=training_mode) for inputs in ((x,) if y is None else (x, y))]
        return self.vjp(x, loss_cotangent(*seen), training_mode=training_mode)

    def fit(self, x: Any, y: Any, **unknown: Any) -> NoReturn:
        """Raises Unsupported, as in ART: fit the members one by one."""
        raise Unsupported("an ensemble cannot be fitted as a whole; fit its members")

    def __repr__(self) -> str:
        counted = zip(self.weights, self.members, strict=True)
        return f"RemoteEnsemble({' + '.join(f'{weight:g} * {member!r}' for weight, member in counted)})"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_pool": None}

    # Inside.

    def _mode(self, training_mode: bool | None) -> bool | None:
        return self._learning_phase if training_mode is None else training_mode

    def _require(self, operation: str) -> None:
        if operation not in self.card.operations:
            without = ", ".join(_where(member) for member in self.members if operation not in member.card.operations)
            raise Unsupported(f"the ensemble lacks {operation}: every member needs it, and these lack it: {without}")

    def _joined(self, ask: Callable[[RemoteEstimator], Array], raw: bool = False) -> Array:
        """Returns the weighted sum of the members' answers, or with ``raw`` the weighted answers, ``(k, ...)``."""
        answers = self._asked(ask)
        for member, answer in zip(self.members, answers, strict=True):
            # numpy would add (n, 1) to (n, 2).
            if answer.shape != answers[0].shape:
                given = f"{_where(member)} answers {answer.shape}, {_where(self.members[0])} {answers[0].shape}"
                raise ServerError(f"{given}; expected equal shapes: was a member fitted to other classes?")
        weighted: Iterator[Array] = (weight * answer for weight, answer in zip(self.weights, answers, strict=True))
        return np.stack(list(weighted)) if raw else reduce(add, weighted)

    def _asked(self, ask: Callable[[RemoteEstimator], Array]) -> list[Array]:
        def named(member: RemoteEstimator) -> Array:
            try:
                return ask(member)
            except GradwireError as e:
                # The same error with its attributes: callers use its type and retry_after_s.
                e.args = (f"{_where(member)}: {e}",)
                raise

        first, *others = self.members
        if not others:
            return [named(first)]
        futures = [self._threads().submit(named, member) for member in others]
        try:
            return [named(first), *(future.result() for future in futures)]
        finally:
            for future in futures:
                future.cancel()

    def _threads(self) -> ThreadPoolExecutor:
        """Returns threads for all members but one, which the caller's own thread serves. A forked child makes new ones."""
        pool = self._pool
        if pool is None or pool[0] != os.getpid():
            workers = _THREADS_A_MEMBER * (len(self.members) - 1)
            pool = self._pool = os.getpid(), ThreadPoolExecutor(workers, thread_name_prefix="gradwire-ensemble")
        return pool[1]


def _where(member: RemoteEstimator) -> str:
    return f"member {member.card.name!r} at {member.server.address}"


def _no_layers(layer: str | int) -> Unsupported:
    return Unsupported(f"layer {layer!r}: an ensemble has no layers; call one of its members")


def _members(members: Any) -> tuple[RemoteEstimator, ...]:
    given = tuple(members) if isinstance(members, (list, tuple)) else ()
    if not given or not all(isinstance(member, RemoteEstimator) for member in given):
        raise InvalidCall(f"members is {members!r:.200}; expected a list of at least one remote estimator")
    signs = [_where(member) for member in given if member.codecs.gradients == "sign"]
    if signs:
        raise InvalidCall(
            f"{signs[0]} answers signs of gradients, and a sum of signs is not the sign of the sum; "
            'expected members with gradients="bfloat16", "float16" or None (a served ensemble sums before it takes the sign)'
        )
    return given


def _weights(weights: Any, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1 / count,) * count
    try:
        numbers = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InvalidCall(f"weights is {weights!r:.200}; expected {count} finite numbers, one per member")
    return numbers
