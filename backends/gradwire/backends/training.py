"""Training loops over rows and batches, one step at a time. Transactions are the estimator's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gradwire.backends.backend import Array
from gradwire.backends.errors import InvalidValue

Prepare: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]
"""Function from callers' rows and labels to model inputs and labels to train on."""


@dataclass(frozen=True)
class FitProgress:
    """Progress of a fit: ``batch`` of ``nb_batches`` are done in ``epoch`` of ``nb_epochs``; unknown numbers are 0."""

    epoch: int
    nb_epochs: int
    batch: int
    nb_batches: int
    loss: float | None


@dataclass(frozen=True)
class FitOptions:
    """Options of the training loop; the optimizer belongs to the model."""

    batch_size: int = 128
    nb_epochs: int = 10
    drop_last: bool = False
    training_mode: bool = True
    seed: int | None = None


def whole(model: Any, x: Array, y: Array, prepare: Prepare) -> Iterator[FitProgress]:
    """Fits on all rows together, with one step of progress before and one after."""
    yield FitProgress(1, 1, 0, 1, None)
    model.fit(*prepare(x, y))
    yield FitProgress(1, 1, 1, 1, None)


def steps(model: Any, x: Array, y: Array, options: FitOptions, prepare: Prepare) -> Iterator[FitProgress]:
    """Fits with one step of the optimizer a batch, in a new order every epoch.

    Raises:
        InvalidValue: The rows are fewer than one batch, and ``drop_last`` is set.
    """
    order = np.random.default_rng(options.seed)
    nb_batches = len(x) // options.batch_size if options.drop_last else -(-len(x) // options.batch_size)
    if nb_batches == 0:
        raise InvalidValue(f"drop_last needs at least one batch of {options.batch_size} rows; given {len(x)} rows")
    for epoch in range(1, options.nb_epochs + 1):
        visited = order.permutation(len(x))
        for batch in range(nb_batches):
            rows = visited[batch * options.batch_size : (batch + 1) * options.batch_size]
            loss = model.train_step(*prepare(x[rows], y[rows]), training_mode=options.training_mode)
            yield FitProgress(epoch, options.nb_epochs, batch + 1, nb_batches, loss)


def batches(model: Any, given: Iterator[tuple[Array, Array]], training_mode: bool, prepare: Prepare) -> Iterator[FitProgress]:
    """Fits with one step of the optimizer for each batch given.

    Raises:
        InvalidValue: No batch is given.
    """
    done = 0
    for done, (x, y) in enumerate(given, start=1):
        loss = model.train_step(*prepare(x, y), training_mode=training_mode)
        yield FitProgress(1, 0, done, 0, loss)
    if not done:
        raise InvalidValue("no batches were given; expected at least one")
