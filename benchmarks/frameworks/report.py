"""Reports of all frameworks: a table on the screen, JSON and markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks.contenders import art, gradwire
from benchmarks.frameworks.over_socket import NAME as OVER_SOCKET
from benchmarks.frameworks.setup import PLAIN
from benchmarks.report import WIDTH, Result, conditions, new_table, times

SLOWER_AT_MOST = 1.15
"""Goal: time as a multiple of plain code's, at more than one row."""
ROWS_AT_MOST = 1.3
"""Goal: class gradients with one class a row, as a multiple of one loss gradient of a neural network."""
THAN_ART_AT_LEAST = 20
"""Goal: times as fast as ART, in gradients of scikit-learn's models."""

_HEAD = ["model", "operation", "rows", "plain", "over a socket", "/ plain", "gradwire", "/ plain", "ART", "ART / gradwire"]


@dataclass
class Model:
    """All results of one model.

    Attributes:
        name: Its name in reports.
        neural: True if it is the CNN.
        versions: Versions of packages, by contender.
        results: Results, case by case.
    """

    name: str
    neural: bool
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """All results of a run.

    Attributes:
        machine: Facts about the machine, the date and the code.
        quick: True if it made too few calls to be quoted.
        models: The models that were measured.
        failures: Errors of the others, by framework.
    """

    machine: Mapping[str, str | int]
    quick: bool
    models: Sequence[Model]
    failures: Mapping[str, str]

    def conditions(self) -> str:
        """The machine and the versions in one sentence."""
        return conditions(self.machine, (versions for model in self.models for versions in model.versions.values()))

    def findings(self) -> list[str]:
        """Compares the results with the goals, in sentences."""
        lines = list(_of_plain(self.models))
        for model in self.models:
            ratios = dict(_class_gradients_of_loss_gradients(model))
            if model.neural and ratios:
                listed = ", ".join(f"{ratio:.2f} (rows: {rows})" for rows, ratio in ratios.items())
                verdict = "" if max(ratios.values()) <= ROWS_AT_MOST else f", more than {ROWS_AT_MOST}"
                lines.append(
                    f"{model.name}: class gradients with one class a row take {listed} of one loss gradient's time{verdict}."
                )
        for model in self.models:
            faster = {
                (result.case.title, result.case.rows): ratio
                for result in model.results
                if (ratio := result.ratio(art.NAME, gradwire.NAME)) is not None
            }
            below = [
                f"{title} of {rows} ({ratio:.2g} times)" for (title, rows), ratio in faster.items() if ratio < THAN_ART_AT_LEAST
            ]
            if faster:
                lines.append(f"{model.name}: at least {THAN_ART_AT_LEAST} times as fast as ART, except: {_listed(below)}.")
        return lines + [f"{framework} was not measured: {why}" for framework, why in self.failures.items()]


def show(run: Run, console: Console) -> None:
    """Prints the table and the findings."""
    spread = console.width >= WIDTH
    table = new_table(run.conditions(), spread)
    for i, column in enumerate(_HEAD):
        table.add_column(column, justify="left" if i < 2 else "right", no_wrap=spread)
    for model in run.models:
        table.add_section()
        for row in _rows(model, spread):
            table.add_row(*row)
    console.print(table)
    for line in run.findings():
        console.print(f"- {line}", highlight=False, markup=False)


def write_json(run: Run, path: Path) -> None:
    """Writes every number."""
    results = [
        {"model": model.name, "operation": result.case.operation, "rows": result.case.rows, **asdict(measurement)}
        | {"of_plain": result.ratio(measurement.contender, PLAIN)}
        for model in run.models
        for result in model.results
        for measurement in result.measurements
    ]
    versions = {model.name: model.versions for model in run.models}
    content = {
        "machine": dict(run.machine),
        "versions": versions,
        "quick": run.quick,
        "failures": dict(run.failures),
        "results": results,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_markdown(run: Run, path: Path) -> None:
    """Writes the table and the findings."""
    lines = [
        f"Median ms (10th to 90th percentile). {run.conditions()}.",
        "",
        *(["A quick run, with too few calls to be quoted.", ""] if run.quick else []),
        *(f"- {line}" for line in run.findings()),
        "",
        f"| {' | '.join(_HEAD)} |",
        f"|---|---|{'--:|' * (len(_HEAD) - 2)}",
        *(f"| {' | '.join(row)} |" for model in run.models for row in _rows(model)),
    ]
    path.write_text("\n".join(lines) + "\n")


def _rows(model: Model, spread: bool = True) -> Iterator[list[str]]:
    for result in model.results:
        of_art = result.ratio(art.NAME, gradwire.NAME)
        yield [
            model.name,
            result.case.title,
            str(result.case.rows),
            times(result.of(PLAIN), spread),
            *(cell for name in (OVER_SOCKET, gradwire.NAME) for cell in (times(result.of(name), spread), _of(result, name))),
            times(result.of(art.NAME), spread),
            "" if of_art is None else f"{of_art:.2g}" if of_art < 100 else f"{of_art:.0f}",
        ]


def _of_plain(models: Sequence[Model]) -> Iterator[str]:
    """Compares calls of several rows with plain code: gradwire, and the same code behind a bare socket."""
    cases = [
        (f"{model.name}, {result.case.title} of {result.case.rows} rows", mine, least, plain)
        for model in models
        for result in model.results
        if result.case.rows > 1
        and (mine := result.of(gradwire.NAME))
        and (least := result.of(OVER_SOCKET))
        and (plain := result.of(PLAIN))
    ]
    over = [case for case in cases if case[1].median_ms > SLOWER_AT_MOST * case[3].median_ms]
    socket_too = [case for case in over if case[2].median_ms > SLOWER_AT_MOST * case[3].median_ms]
    ahead = [case for case in over if case[1].median_ms <= case[2].median_ms]
    yield (
        f"At 32 and 128 rows gradwire takes at most {SLOWER_AT_MOST} times plain code's time in {len(cases) - len(over)} of "
        f"{len(cases)} cases. In {len(socket_too)} of the other {len(over)}, so does not plain code behind a bare Unix socket "
        f"either; gradwire is no slower than that in {len(ahead)} of them."
    )
    for what, cells in (
        ("where the bare socket is too", socket_too),
        ("where it is not", [c for c in over if c not in socket_too]),
    ):
        listed = [
            f"{title} ({mine.median_ms / plain.median_ms:.2f} times, {mine.median_ms - plain.median_ms:+.2f} ms; the socket "
            f"{least.median_ms / plain.median_ms:.2f})"
            for title, mine, least, plain in cells
        ]
        yield f"Over {SLOWER_AT_MOST}, {what}: {_listed(listed)}."


def _of(result: Result, name: str) -> str:
    ratio = result.ratio(name, PLAIN)
    return "" if ratio is None else f"{ratio:.2f}"


def _class_gradients_of_loss_gradients(model: Model) -> Iterator[tuple[int, float]]:
    """Yields rows, and class gradients as a multiple of a loss gradient."""
    found = {(result.case.operation, result.case.rows): result.of(gradwire.NAME) for result in model.results}
    for (operation, rows), mine in found.items():
        loss_gradient = found.get(("loss_gradient", rows))
        if operation == "class_gradient_rows" and mine and loss_gradient:
            yield rows, mine.median_ms / loss_gradient.median_ms


def _listed(those: Sequence[str]) -> str:
    return "; ".join(those) or "nowhere"
