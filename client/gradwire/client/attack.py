"""ART attacks under a budget: results so far are kept when the budget is spent.

An attack runs batch after batch, and its calls to the estimator are observed. No calls are added: everything known about a row
comes from answers that the attack has paid for.
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
"""The batch under attack, in the thread of the attack."""

_SAMPLED = 512
"""Numbers of a row in the first comparison of distances; comparing all of many large rows would take longer than the attack."""


def run_attack(attack: Any, x: Any, y: Any = None, batch_size: int = 32, **kwargs: Any) -> Array:
    """Runs ``attack.generate`` on batches of rows, and keeps the results so far if the budget is spent.

        try:
            adversarial = run_attack(HopSkipJump(art_estimator(digits)), x, y)
        except BudgetSpent as spent:
            adversarial = spent.best

    Args:
        attack: One of ART's evasion attacks, on an estimator of `art_estimator`. Attacks that search one perturbation for all
            rows need all rows in one batch.
        x: ``(n, *input_shape)``.
        y: Labels, or targets of a targeted attack: ``(n,)`` or ``(n, 1)`` indices, or ``(n, C)`` rows. None: the attack's
            default, in general the model's predictions for ``x``.
        batch_size: Rows per call of ``attack.generate``.
        **kwargs: Passed to ``attack.generate`` for each batch.

    Returns:
        The adversarial rows, ``(n, *input_shape)``.

    Raises:
        BudgetSpent: The budget was spent. The exception then has three more attributes:

            - ``best``, in the form of the result. Rows of completed batches are the attack's results. A row of the interrupted
              batch is the nearest query, in the attack's norm or else the Euclidean, that the model misclassified (in targeted
              attacks: classified as the target); without one, the last query of a gradient, whose class is unknown. Other rows
              are those of ``x``.
            - ``finished``, bool ``(n,)``: the row's batch was completed.
            - ``fooled``, bool ``(n,)``: the row of ``best`` is a query of the interrupted batch that the model misclassified.

        InvalidCall: ``batch_size`` is not at least 1, or ``x`` and ``y`` differ in length.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidCall(f"batch_size is {batch_size!r}; expected at least 1")
    x = np.asarray(x)
    y = None if y is None else np.asarray(y)
    if y is not None and len(y) != len(x):
        raise ShapeError(f"y has {len(y)} labels for {len(x)} rows; expected one per row")
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
    """Records outputs that an attack has seen, if one runs in this thread."""
    batch = _watching.get()
    if batch is not None and outputs.ndim == 2 and len(outputs) == len(x):
        # A single output belongs to the second of two classes.
        single = outputs.shape[1] == 1
        batch.answered(np.asarray(x), (outputs[:, 0] > (0.0 if logits else 0.5)).astype(int) if single else outputs.argmax(1))


def differentiated(x: Any) -> None:
    """Records rows whose gradients an attack has seen, if one runs in this thread."""
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
    """The rows of one batch, and the best query of each so far.

    A query belongs to the nearest row, because attacks choose order and number of their queries. In the attack's norm, a
    query within epsilon of any row is also within epsilon of the nearest.

    Args:
        x: The rows.
        y: Labels or targets; None: the model's classes of the rows themselves, once known.
        targeted: Whether ``y`` are targets.
        norm: The norm of distances.
    """

    def __init__(self, x: Array, y: Array | None, targeted: bool, norm: float) -> None:
        self.y = y
        self._x = x
        self._flat = x.reshape(len(x), -1).astype(np.float64)
        self._targeted = targeted
        self._norm = norm
        # Some of a row's numbers: the norm of their differences is at most that of all.
        self._some = slice(None, None, max(1, self._flat.shape[1] // _SAMPLED))
        # -1: unknown.
        self._labels = np.full(len(x), -1) if y is None else _indices(y)
        self._distances = np.full(len(x), np.inf)
        self._fooling: dict[int, Array] = {}
        self._latest: dict[int, Array] = {}

    def answered(self, x: Array, classes: Array) -> None:
        """Records the classes that the model gave to queries."""
        if x.shape[1:] != self._x.shape[1:]:
            return
        owners, distances = self._owners(x)
        for query, (row, distance) in enumerate(zip(owners.tolist(), distances.tolist(), strict=True)):
            if self._labels[row] == -1 and distance == 0:
                self._labels[row] = classes[query]
            known = self._labels[row]
            fools = known != -1 and bool((classes[query] == known) if self._targeted else (classes[query] != known))
            if fools and distance < self._distances[row]:
                self._distances[row] = distance
                self._fooling[row] = np.array(x[query])

    def differentiated(self, x: Array) -> None:
        """Records queries whose gradients the model gave."""
        if x.shape[1:] == self._x.shape[1:]:
            owners, _ = self._owners(x)
            for query, row in enumerate(owners.tolist()):
                self._latest[row] = np.array(x[query])

    def best(self, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Returns the best query of each row, and whether it fooled the model."""
        best = self._x.astype(dtype)
        for row, query in (self._latest | self._fooling).items():
            best[row] = query
        return best, np.isin(np.arange(len(best)), list(self._fooling))

    def _owners(self, x: Array) -> tuple[Array, Array]:
        """Returns the index of the nearest row of each query, and the distance."""
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
