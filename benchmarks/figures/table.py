"""Reports of a run's figures: a table on the screen, markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures.figure import Figure, Goal

HEAD = ("figure", "gradwire", "beside", "ratio (10-90 %)", "goal", "met")


@dataclass
class Scoreboard:
    """The figures that a run has measured so far.

    Attributes:
        machine: Facts about the machine, the date and the code.
        quick: True if it makes too few calls to be quoted.
        titles: Titles of groups in reports.
        figures: The figures, in the order of the groups.
        versions: Versions of all packages measured.
        failures: Errors of groups that could not be measured.
        measured: Date and commit of the measurement, by group.
    """

    machine: Mapping[str, str | int]
    quick: bool
    titles: Mapping[str, str]
    figures: list[Figure] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    measured: dict[str, str] = field(default_factory=dict)

    def add(self, group: str, figures: Sequence[Figure]) -> None:
        """Replaces the figures of a group by those measured now."""
        self.figures = [figure for figure in self.figures if figure.group != group] + list(figures)
        self.measured[group] = f"{str(self.machine['date'])[:10]}, commit {self.machine['commit']}"

    def keep(self, path: Path) -> None:
        """Adds the groups of an earlier run that have not been measured yet."""
        content = json.loads(path.read_text())
        when = f"{content['machine']['date'][:10]}, commit {content['machine']['commit']}"
        found = [_figure(of) for of in content["figures"]]
        self.figures += [figure for figure in found if figure.group not in self.measured]
        measured = {group: content.get("measured", {}).get(group, when) for group in {figure.group for figure in found}}
        self.measured = {**measured, **self.measured}
        self.versions = {**content["versions"], **self.versions}

    def conditions(self) -> str:
        """Describes the machine and the versions in one sentence."""
        software = ", ".join(f"{name} {number}" for name, number in {"Python": self.machine["python"], **self.versions}.items())
        return f"{self.machine['cpu']}, {self.machine['cores']} cores, one compute thread each; {software}"

    def summary(self) -> str:
        """Counts the goals that are reached, in a sentence."""
        judged = [figure for figure in self.figures if figure.met is not None]
        met = sum(bool(figure.met) for figure in judged)
        failed = f" Not measured: {', '.join(self.failures)}." if self.failures else ""
        return f"{met} of {len(judged)} goals are reached.{failed}"


def show(board: Scoreboard, console: Console) -> None:
    """Prints the table."""
    table = Table(title=board.summary(), title_justify="left", caption=board.conditions(), caption_justify="left")
    for column in HEAD:
        table.add_column(column, justify="left" if column in ("figure", "met") else "right", no_wrap=column != "figure")
    for title, figures in _by_group(board):
        table.add_section()
        table.add_row(f"[bold]{title}[/bold] ({board.measured[figures[0].group]})")
        for figure in figures:
            *cells, met = _cells(figure)
            table.add_row(*cells, f"[red]{met}[/red]" if figure.met is False else met)
    console.print(table)
    for group, why in board.failures.items():
        console.print(f"[red]not measured[/red] {group}: {why}", highlight=False)


def write_markdown(board: Scoreboard, path: Path) -> None:
    """Writes the table."""
    lines = [
        f"{board.summary()} What is beside a figure was measured in turns with it. Below a ratio's median stand the 10th and 90th "
        f"percentile of single rounds. {board.conditions()}.",
        "",
        *(["A quick run, with too few calls to be quoted.", ""] if board.quick else []),
    ]
    for title, figures in _by_group(board):
        lines += [
            f"## {title}",
            "",
            f"Measured {board.measured[figures[0].group]}.",
            "",
            f"| {' | '.join(HEAD)} |",
            "|---|--:|--:|--:|--:|---|",
        ]
        lines += [f"| {' | '.join(_cells(figure))} |" for figure in figures]
        lines += ["", *(f"- {remark}" for remark in dict.fromkeys(f.remark for f in figures if f.remark)), ""]
    lines += [f"- Not measured: {group}: {why.splitlines()[0]}" for group, why in board.failures.items()]
    text = "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"
    path.write_text(text)


def write_json(board: Scoreboard, path: Path) -> None:
    """Writes every number."""
    figures = [{**asdict(figure), "ratio": figure.ratio, "met": figure.met} for figure in board.figures]
    content = {
        "machine": dict(board.machine),
        "versions": board.versions,
        "measured": board.measured,
        "quick": board.quick,
        "figures": figures,
        "failures": board.failures,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def _figure(of: dict[str, Any]) -> Figure:
    goal = None if of["goal"] is None else Goal(**of["goal"])
    spread = None if of["spread"] is None else (float(of["spread"][0]), float(of["spread"][1]))
    known = {name: of[name] for name in ("group", "name", "unit", "value", "beside", "other", "remark")}
    return Figure(**known, goal=goal, spread=spread)


def _by_group(board: Scoreboard) -> list[tuple[str, Sequence[Figure]]]:
    there = {figure.group for figure in board.figures}
    groups = [group for group in board.titles if group in there]
    return [(board.titles[group], [figure for figure in board.figures if figure.group == group]) for group in groups]


def _cells(figure: Figure) -> list[str]:
    ratio = "" if figure.ratio is None else _number(figure.ratio)
    if figure.spread is not None:
        ratio += f" ({_number(figure.spread[0])}-{_number(figure.spread[1])})"
    goal = figure.goal
    bound = "" if goal is None else f"{goal.relation} {_number(goal.bound)}" + ("x" if goal.of == "ratio" else f" {figure.unit}")
    beside = f"{figure.beside} {_number(figure.other)}" if figure.other is not None else figure.beside
    met = "" if figure.met is None else "yes" if figure.met else "no"
    return [figure.name, f"{_number(figure.value)} {figure.unit}".rstrip(), beside, ratio, bound, met]


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"
