"""Measurement of cases with contenders in turns; their results are compared before any call is timed."""

from __future__ import annotations

import gc
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.cases import Case
from benchmarks.contenders.contender import Contender
from benchmarks.measure import MakeInputs, check, measure_rounds
from benchmarks.model import inputs as cnn_inputs


def in_turns(
    chosen: Sequence[Case], contenders: Sequence[Contender], console: Console, inputs: MakeInputs = cnn_inputs
) -> dict[Case, dict[str, list[list[float]]]]:
    """Measures the seconds of every round, by case and contender. Raises Disagreement if results differ."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress:
        checking = progress.add_task("checking the numbers", total=len(chosen))
        for case in chosen:
            check(case, contenders, inputs)
            progress.advance(checking)
        measuring = progress.add_task("measuring", total=sum(case.repeats.rounds for case in chosen))
        found = {}
        for case in chosen:
            progress.update(measuring, description=f"{case.title}, {case.rows}")
            gc.collect()
            found[case] = measure_rounds(case, contenders, lambda: progress.advance(measuring), inputs)
    return found
