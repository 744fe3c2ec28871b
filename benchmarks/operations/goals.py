"""Goals of single calls, and the figures compared with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.cases import FIT, TITLES, Case
from benchmarks.contenders import art, gradwire, mlserver, plain
from benchmarks.figures.figure import Figure, Goal
from benchmarks.figures.rounds import overhead_spread, spread

OF_MLSERVER = Goal(1 / 3)
ONE_ROW_OF_ART = {"predict": Goal(1.3), "loss_gradient": Goal(1.2), "class_gradient_all": Goal(0.6)}
MANY_ROWS_OF_ART = Goal(1.0)
LABEL_ARRAYS_OF_ART = Goal(0.25)
OF_PLAIN = Goal(1.08)
_PLAIN_ROWS = 128


@dataclass(frozen=True)
class Rounds:
    """A case, with each contender's medians of the rounds and of all calls, in milliseconds."""

    case: Case
    medians_ms: Mapping[str, Sequence[float]]
    median_ms: Mapping[str, float]

    @classmethod
    def of(cls, case: Case, rounds_s: Mapping[str, Sequence[Sequence[float]]]) -> Rounds:
        """Makes it from the times of every round, in seconds."""
        return cls(
            case,
            {name: [float(np.median(times)) * 1e3 for times in rounds] for name, rounds in rounds_s.items()},
            {name: float(np.median([t for times in rounds for t in times])) * 1e3 for name, rounds in rounds_s.items()},
        )


def overheads(of: Rounds, peers: Sequence[str]) -> list[Figure]:
    """Makes the figures of one-row calls less plain torch, beside peers; the goal is for MLServer's ordinary call."""
    if of.case.rows != 1 or gradwire.NAME not in of.median_ms:
        return []
    base, rounds = of.median_ms[plain.NAME], of.medians_ms
    ordinary = next(iter(mlserver.NAMES))
    return [
        Figure(
            "operations",
            f"{of.case.title}, CNN, 1 row: over plain torch",
            "ms",
            of.median_ms[gradwire.NAME] - base,
            peer,
            of.median_ms[peer] - base,
            OF_MLSERVER if peer == ordinary else None,
            overhead_spread(rounds[gradwire.NAME], rounds[peer], rounds[plain.NAME]),
        )
        for peer in peers
        if peer in of.median_ms
    ]


def beside_art(of: Rounds, group: str, model: str) -> list[Figure]:
    """Makes the figures of calls beside in-process ART."""
    operation, rows = of.case.operation, of.case.rows
    if rows == 1:
        goal = ONE_ROW_OF_ART.get(operation)
        return [] if goal is None else _beside(of, group, model, art.NAME, goal)
    if operation == FIT:
        return []
    return _beside(of, group, model, art.NAME, LABEL_ARRAYS_OF_ART if operation == "class_gradient_rows" else MANY_ROWS_OF_ART)


def beside_plain(of: Rounds, group: str, model: str) -> list[Figure]:
    """Makes the figures of large calls beside plain torch."""
    return _beside(of, group, model, plain.NAME, OF_PLAIN) if of.case.rows == _PLAIN_ROWS else []


def _beside(of: Rounds, group: str, model: str, other: str, goal: Goal) -> list[Figure]:
    if gradwire.NAME not in of.median_ms or other not in of.median_ms:
        return []
    return [
        Figure(
            group,
            f"{TITLES[of.case.operation]}, {model}, {of.case.rows} row{'s' if of.case.rows > 1 else ''}",
            "ms",
            of.median_ms[gradwire.NAME],
            other,
            of.median_ms[other],
            goal,
            spread(of.medians_ms[gradwire.NAME], of.medians_ms[other]),
        )
    ]
