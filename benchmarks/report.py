"""Reports of a run: a table on the screen, JSON and markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cases import FIT, Case
from benchmarks.contenders import art, gradwire, mlserver, plain
from benchmarks.measure import Measurement

WIDTH = 160
"""Characters in a line of the table with percentiles."""


@dataclass(frozen=True)
class Result:
    """One case and its measurements."""

    case: Case
    measurements: Sequence[Measurement]

    def of(self, contender: str) -> Measurement | None:
        """Finds a contender's measurement; None if it lacks the operation or was left out."""
        return next((m for m in self.measurements if m.contender == contender), None)

    def overhead_ms(self, contender: str) -> float | None:
        """Computes a contender's time less plain torch's."""
        mine, torch = self.of(contender), self.of(plain.NAME)
        return mine.median_ms - torch.median_ms if mine and torch else None

    def ratio(self, contender: str, to: str) -> float | None:
        """Computes a contender's time as a multiple of another's."""
        mine, other = self.of(contender), self.of(to)
        return mine.median_ms / other.median_ms if mine and other else None


@dataclass(frozen=True)
class Run:
    """All results of a run.

    Attributes:
        machine: Facts about the machine, the date and the code.
        versions: Versions of packages, by contender.
        quick: True if it made too few calls to be quoted.
        results: Results, case by case.
    """

    machine: Mapping[str, str | int]
    versions: Mapping[str, Mapping[str, str]]
    quick: bool
    results: Sequence[Result]

    @property
    def contenders(self) -> list[str]:
        """The names of all contenders."""
        return list(self.versions)

    def conditions(self) -> str:
        """The machine and the versions in one sentence."""
        return conditions(self.machine, self.versions.values())

    def findings(self) -> list[str]:
        """Compares the results with the two goals, in sentences."""
        slower = [
            f"{r.case.title} of {r.case.rows} rows ({ratio:.2f} times)"
            for r in self.results
            if r.case.rows > 1 and r.case.operation != FIT and (ratio := r.ratio(gradwire.NAME, art.NAME)) and ratio > 1
        ]
        lines = [f"gradwire is no slower than in-process ART at 32 and 128 rows, except: {'; '.join(slower) or 'nowhere'}."]
        for r in self.results:
            peers = {name: ms for name in mlserver.NAMES if (ms := r.overhead_ms(name)) is not None}
            ours = r.overhead_ms(gradwire.NAME)
            if r.case.rows == 1 and peers and ours is not None:
                theirs = ", ".join(f"{name} {ms:.2f} ms" for name, ms in peers.items())
                lines.append(f"{r.case.title} of 1 row costs this much more than plain torch: gradwire {ours:.2f} ms, {theirs}.")
        return lines


def conditions(machine: Mapping[str, str | int], versions: Iterable[Mapping[str, str]]) -> str:
    """Describes a machine and the versions of all contenders in one sentence."""
    found = {name: number for those in versions for name, number in those.items()}
    software = ", ".join(f"{name} {number}" for name, number in {"Python": machine["python"], **found}.items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, one compute thread each, {str(machine['date'])[:10]}, "
        f"commit {machine['commit']}; {software}"
    )


def new_table(caption: str, spread: bool) -> Table:
    """Makes an empty table of medians; ``spread`` is true if cells have percentiles too."""
    return Table(
        title="median ms (10th to 90th percentile)" if spread else "median ms",
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )


def show(run: Run, console: Console) -> None:
    """Prints the table and the findings."""
    spread = console.width >= WIDTH
    table = new_table(run.conditions(), spread)
    table.add_column("operation", no_wrap=True)
    table.add_column("rows", justify="right", no_wrap=True)
    for column in (*run.contenders, "over plain, ms", "of ART's time"):
        table.add_column(column, justify="right", no_wrap=spread)
    before = ""
    for result in run.results:
        if before and result.case.operation != before:
            table.add_section()
        table.add_row(result.case.title if result.case.operation != before else "", *_cells(run, result, spread))
        before = result.case.operation
    console.print(table)
    for line in run.findings():
        console.print(f"- {line}", highlight=False)


def write_json(run: Run, path: Path) -> None:
    """Writes every number."""
    rows: list[dict[str, Any]] = [
        {
            "operation": result.case.operation,
            "rows": result.case.rows,
            **asdict(measurement),
            "over_plain_ms": result.overhead_ms(measurement.contender),
            "of_art": result.ratio(measurement.contender, art.NAME),
        }
        for result in run.results
        for measurement in result.measurements
    ]
    content = {"machine": dict(run.machine), "versions": dict(run.versions), "quick": run.quick, "results": rows}
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_markdown(run: Run, path: Path) -> None:
    """Writes the table and the findings."""
    head = ["operation", "rows", *run.contenders, "gradwire over plain, ms", "gradwire of ART's time"]
    lines = [
        f"Median ms (10th to 90th percentile); the calls of all columns were made in turns. {run.conditions()}.",
        "",
        *(["A quick run, with too few calls to be quoted.", ""] if run.quick else []),
        f"| {' | '.join(head)} |",
        f"|---|{'--:|' * (len(head) - 1)}",
        *(f"| {result.case.title} | {' | '.join(_cells(run, result))} |" for result in run.results),
        "",
        *(f"- {line}" for line in run.findings()),
    ]
    path.write_text("\n".join(lines) + "\n")


def _cells(run: Run, result: Result, spread: bool = True) -> list[str]:
    overhead, ratio = result.overhead_ms(gradwire.NAME), result.ratio(gradwire.NAME, art.NAME)
    return [
        str(result.case.rows),
        *(times(result.of(name), spread) for name in run.contenders),
        "" if overhead is None else f"{overhead:+.2f}",
        "" if ratio is None else f"{ratio:.2f}",
    ]


def times(m: Measurement | None, spread: bool = True) -> str:
    """Formats the median in ms, with percentiles if ``spread`` is true."""
    if m is None:
        return ""
    return _ms(m.median_ms) + (f" ({_ms(m.p10_ms)}-{_ms(m.p90_ms)})" if spread else "")


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"
