"""Measurement of contenders in turns: a machine that slows down for a while slows all of them alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from benchmarks.cases import FIT, Case
from benchmarks.contenders.contender import Contender
from benchmarks.model import Array, Inputs, inputs

MakeInputs: TypeAlias = Callable[..., Inputs]

TOLERANCE = 1e-4
"""Between contenders, relative to the largest number: float32 sums in another order differ by some 1e-6."""


class Disagreement(Exception):
    """A contender computes other numbers than plain torch, so its times would mean nothing."""


@dataclass(frozen=True)
class Measurement:
    """Times of the calls of one contender in one case, in milliseconds."""

    contender: str
    calls: int
    median_ms: float
    p10_ms: float
    p90_ms: float


def check(case: Case, contenders: Sequence[Contender], inputs: MakeInputs = inputs) -> None:
    """Compares the results of all contenders with those of the first. Raises Disagreement if they differ."""
    reference, *others = [contender for contender in contenders if case.operation in contender.operations]
    expected = _answer(case, reference, inputs)
    for contender in others:
        answer = _answer(case, contender, inputs)
        if answer.shape != expected.shape:
            raise Disagreement(
                f"{case.title}, {case.rows} rows: {contender.name} returns {answer.shape}, expected {expected.shape}"
            )
        error = float(np.abs(answer - expected).max() / np.abs(expected).max())
        if not error <= TOLERANCE:
            raise Disagreement(f"{case.title}, {case.rows} rows: {contender.name} is off by {error:.1e}; at most {TOLERANCE:.0e}")


def measure(
    case: Case, contenders: Sequence[Contender], advance: Callable[[], None], inputs: MakeInputs = inputs
) -> list[Measurement]:
    """Measures a case.

    Args:
        case: The operation and the number of calls.
        contenders: Contenders; those without the operation are left out.
        advance: Called after each round.
        inputs: Makes the inputs for a number of rows.
    """
    return [summary(name, rounds) for name, rounds in measure_rounds(case, contenders, advance, inputs).items()]


def measure_rounds(
    case: Case, contenders: Sequence[Contender], advance: Callable[[], None], inputs: MakeInputs = inputs
) -> dict[str, list[list[float]]]:
    """Measures a case as `measure` does; returns the seconds of each call by contender and round."""
    able = [contender for contender in contenders if case.operation in contender.operations]
    given = inputs(case.rows)
    rounds: dict[str, list[list[float]]] = {contender.name: [] for contender in able}
    order = random.Random(0)
    for _ in range(case.repeats.rounds):
        # Shuffled, so that no contender always comes after the same one.
        for contender in order.sample(able, len(able)):
            contender.times_s(case.operation, given, case.repeats.settling)
            rounds[contender.name].append(contender.times_s(case.operation, given, case.repeats.calls))
        advance()
    return rounds


def _answer(case: Case, contender: Contender, inputs: MakeInputs) -> Array:
    if case.operation != FIT:
        return contender.answer(case.operation, inputs(case.rows))
    # One step on all rows, because each contender visits batches in an order of its own.
    whole = inputs(case.rows, batch_size=case.rows)
    contender.answer("reset", whole)
    before = contender.answer("predict", whole)
    contender.answer(FIT, whole)
    change: Array = contender.answer("predict", whole) - before
    contender.answer("reset", whole)
    return change


def summary(name: str, rounds: Sequence[Sequence[float]]) -> Measurement:
    """Summarises the times of a contender over all rounds."""
    times_ms = np.array([time for times in rounds for time in times]) * 1e3
    p10, median, p90 = (float(value) for value in np.percentile(times_ms, (10, 50, 90)))
    return Measurement(name, len(times_ms), median, p10, p90)
