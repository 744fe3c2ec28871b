"""Simulate many servers and clients, and write the tables, the plot and all figures: ``python -m benchmarks.scaling``.

The costs of calls are read from ``benchmarks/results``; ``python -m benchmarks.scaling.measure`` measures them.
"""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import machine
from benchmarks.scaling import report, study
from benchmarks.scaling.costs import MEASURED
from benchmarks.scaling.plot import plot
from benchmarks.scaling.validation import validate


def run(
    write: Annotated[bool, typer.Option(help="Write the results, the plot and the document's tables.")] = True,
    tables: Annotated[
        bool, typer.Option("--tables", help="Simulate nothing; write the document's tables from the last results.")
    ] = False,
    processes: Annotated[int, typer.Option(help="Processes that share the work.", min=1)] = len(os.sched_getaffinity(0)),
) -> None:
    """Simulate one to 512 GPUs and ten to 10,000 clients."""
    console = Console()
    if tables:
        report.write_document(json.loads(report.FIGURES.read_text()))
        return

    def told(result: dict[str, Any]) -> None:
        about = f"{result['kind']}, {result['gpus']} GPUs, {result['clients']} clients, {result['name'] or result['topology']}"
        console.print(f"[dim]{about}: {result['calls_per_s']:,.0f} calls/s, {result['bottleneck']}[/dim]", highlight=False)

    figures = {
        "date": str(machine.facts()["date"])[:10],
        "costs": report.digest(MEASURED),
        "validation": validate(),
        "grid": study.run(study.grid(), processes, told),
        "what_if": study.run(study.what_if(), processes, told),
    }
    for part in report.tables(figures).values():
        console.print(part, highlight=False, markup=False, soft_wrap=True)
    if write:
        report.FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
        plot(figures, report.PICTURE)
        report.write_document(figures)
        console.print(f"written: {report.FIGURES}, {report.PICTURE} and the tables of {report.DOCUMENT}", highlight=False)


if __name__ == "__main__":
    typer.run(run)
