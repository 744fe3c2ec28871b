"""ART attacks under a budget: when it is spent, what was found before is still in the caller's hands.

An attack runs batch after batch, and what it asks the estimator is looked at on the way. Nothing is asked in its place: all
that is known of a row is known from answers that the attack has paid for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from gradwire.client.errors import BudgetSpent, InvalidCall, ShapeError
from gradwire.wire.tensors import Array

_watching: ContextVar[_Batch | None] = ContextVar("gradwire-attack", default=None)
"""The batch that is being attacked, in the thread that does it."""

_SAMPLED = 512
"""Numbers of a row that rows are told apart by at first; measuring all of many large rows would take longer than the attack."""


def run_attack(attack: Any, x: Any, y: Any = None, batch_size: int = 32, **kwargs: Any) -> Array:
    """Runs ``attack.generate`` on batches of rows. If the budget is spent on the way, what was found so far is not lost.

        try:
            adversarial = run_attack(HopSkipJump(art_estimator(digits)), x, y)
        except BudgetSpent as spent:
            adversarial = spent.best

    Args:
        attack: One of ART's evasion attacks, on what `art_estimator` made. One that looks for a perturbation of all rows
            together has to see them in one batch.
        x: ``(n, *input_shape)``.
        y: Their labels, or for a targeted attack the targets: ``(n,)`` or ``(n, 1)`` indices, or ``(n, C)`` rows. None: as the
            attack takes it, in general what the model says of ``x``.
        batch_size: Rows that the attack works on at a time.
        **kwargs: For ``attack.generate``, the same for each batch.

    Returns:
        What the attack made of each row, ``(n, *input_shape)``.

    Raises:
        BudgetSpent: The budget was spent. The exception has three more attributes then:

            - ``best``, in the form of the result: of batches that came to their end, what the attack made of each row. Of the
              batch that was broken off, for each row the query nearest to it, in the attack's own norm or else the Euclidean,
              that the model was seen to misclassify (of targeted attacks: to take for the target); failing that the last one
              that a gradient was asked for, of which nobody knows what the model makes of it. Of all others, the row of ``x``.
            - ``finished``, bool ``(n,)``: the row's batch came to its end.
            - ``fooled``, bool ``(n,)``: the row of ``best`` is a query of the broken batch that the model was seen to
              misclassify.

        InvalidCall: ``batch_size`` is not at least 1, or ``x`` and ``y`` differ in length.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidCall(f"batch_size is {batch_size!r}; expected at least 1")
    x = np.asarray(x)
    y = None if y is None else np.asarray(y)
    if y is not None and len(y) != len(x):
        raise ShapeError(f"y has {len(y)} labels for {len(x)} rows; expected one a row")
    best: Array = x.copy()
    finished, fooled = np.zeros(len(x), bool), np.zeros(len(x), bool)
    for begin in range(0, len(x), batch_size):
        part = slice(begin, begin + batch_size)
        batch = _Batch(x[part], None if y is None else y[part], bool(getattr(attack, "targeted", False)), _norm(attack))
        try:
            with _watched(batch):
                made = attack.generate(x=x[part], y=batch.y, **kwargs)
        except BudgetSpent as spent:
            best[part], fooled[part] = batch.best(best.dtype)
            spent.best, spent.finished, spent.fooled = best, finished, fooled
            raise
        if not begin:
            best = best.astype(np.result_type(best, made), copy=False)
        best[part] = made
        finished[part] = True
    return best


def answered(x: Any, outputs: Array, logits: bool) -> None:
    """Takes note of what an attack was told of rows, if one is running in this thread."""
    batch = _watching.get()
    if batch is not None and outputs.ndim == 2 and len(outputs) == len(x):
        # A single output is that of the second of two classes.
        single = outputs.shape[1] == 1
        batch.answered(np.asarray(x), (outputs[:, 0] > (0.0 if logits else 0.5)).astype(int) if single else outputs.argmax(1))


def differentiated(x: Any) -> None:
    """Takes note of rows that an attack has got gradients of, if one is running in this thread."""
    batch = _watching.get()
    if batch is not None:
        batch.differentiated(np.asarray(x))


@contextmanager
def _watched(batch: _Batch) -> Iterator[None]:
    token = _watching.set(batch)
    try:
        yield
    finally:
        _watching.reset(token)


class _Batch:
    """The rows that an attack works on, and the best queries of each so far.

    A query belongs to the row that it is nearest to: attacks ask for rows in an order, and in numbers, of their own. Measured
    in the attack's norm, what is within its epsilon of any row is within it of that one.

    Args:
        x: The rows.
        y: Their labels or targets; None: what the model says of the rows themselves, once it was asked.
        targeted: Whether ``y`` are targets.
        norm: What distances are measured in.
    """

    def __init__(self, x: Array, y: Array | None, targeted: bool, norm: float) -> None:
        self.y = y
        self._x = x
        self._flat = x.reshape(len(x), -1).astype(np.float64)
        self._targeted = targeted
        self._norm = norm
        # Some of a row's numbers: the norm of their differences is at most that of all.
        self._some = slice(None, None, max(1, self._flat.shape[1] // _SAMPLED))
        # -1: not known.
        self._labels = np.full(len(x), -1) if y is None else _indices(y)
        self._distances = np.full(len(x), np.inf)
        self._fooling: dict[int, Array] = {}
        self._latest: dict[int, Array] = {}

    def answered(self, x: Array, said: Array) -> None:
        """The model said which class each of some rows is of."""
        if x.shape[1:] != self._x.shape[1:]:
            return
        owners, distances = self._owners(x)
        for query, (row, distance) in enumerate(zip(owners.tolist(), distances.tolist(), strict=True)):
            if self._labels[row] == -1 and distance == 0:
                self._labels[row] = said[query]
            known = self._labels[row]
            fools = known != -1 and bool((said[query] == known) if self._targeted else (said[query] != known))
            if fools and distance < self._distances[row]:
                self._distances[row] = distance
                self._fooling[row] = np.array(x[query])

    def differentiated(self, x: Array) -> None:
        """The model gave gradients of some rows."""
        if x.shape[1:] == self._x.shape[1:]:
            owners, _ = self._owners(x)
            for query, row in enumerate(owners.tolist()):
                self._latest[row] = np.array(x[query])

    def best(self, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """The best query of each row, and whether it was seen to fool the model."""
        best = self._x.astype(dtype)
        for row, query in (self._latest | self._fooling).items():
            best[row] = query
        return best, np.isin(np.arange(len(best)), list(self._fooling))

    def _owners(self, x: Array) -> tuple[Array, Array]:
        """Which row each query is nearest to, and how far it is from it."""
        queries = x.reshape(len(x), -1).astype(np.float64)
        owners, distances = np.zeros(len(queries), int), np.full(len(queries), np.inf)
        for number, query in enumerate(queries):
            least = np.linalg.norm(self._flat[:, self._some] - query[self._some], self._norm, axis=1)
            for row in np.argsort(least, kind="stable"):
                if least[row] >= distances[number]:
                    break
                distance = np.linalg.norm(self._flat[row] - query, self._norm)
                if distance < distances[number]:
                    owners[number], distances[number] = row, distance
        return owners, distances


def _norm(attack: Any) -> float:
    norm = getattr(attack, "norm", 2)
    return float(norm) if norm in (1, 2, np.inf, "inf") else 2.0


def _indices(y: Array) -> Array:
    return y.argmax(1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(len(y)).astype(int)
