"""``python -m benchmarks.run``: measures everybody on every operation, and writes what was found."""

from __future__ import annotations

import gc
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine
from benchmarks.cases import Case, cases
from benchmarks.contenders.art import art
from benchmarks.contenders.contender import Contender
from benchmarks.contenders.gradwire import gradwire
from benchmarks.contenders.mlserver import mlserver
from benchmarks.contenders.plain import plain
from benchmarks.measure import Disagreement, check, measure
from benchmarks.plot import plot
from benchmarks.report import Result, Run, show, write_json, write_markdown

_FOLDER = Path(__file__).resolve().parent


def run(
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the calls; to try things out.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Operations whose name contains this; may be repeated.")] = None,
    no_mlserver: Annotated[bool, typer.Option("--no-mlserver", help="Leave MLServer out.")] = False,
    mlserver_env: Annotated[Path, typer.Option(help="MLServer's own environment; made if it is not there.")] = _FOLDER.parent
    / ".venv-mlserver",
    out: Annotated[Path, typer.Option(help="Where results go.")] = _FOLDER / "results",
) -> None:
    """Compare gradwire with plain torch, in-process ART and MLServer. Exit code 1: somebody computes other numbers."""
    console = Console()
    chosen = cases(quick, only or [])
    if not chosen:
        raise typer.BadParameter(f"no operation is called like {only}")
    facts = machine.facts()
    with ExitStack() as stack:
        contenders = [stack.enter_context(plain()), stack.enter_context(art()), stack.enter_context(gradwire())]
        if not no_mlserver:
            contenders += stack.enter_context(mlserver(mlserver_env))
        try:
            results = _measured(chosen, contenders, console)
        except Disagreement as e:
            console.print(f"[red]error[/red] {e}", highlight=False)
            raise typer.Exit(1) from None
        versions = {contender.name: contender.versions for contender in contenders}
    name = machine.run_name(facts, quick)
    found = Run(name, facts, versions, quick, results)
    out.mkdir(parents=True, exist_ok=True)
    write_json(found, out / f"{name}.json")
    write_markdown(found, out / "latest.md")
    plot(found, out / "latest.png")
    show(found, console)
    console.print(f"written: {out / name}.json, latest.md and latest.png", highlight=False)


def _measured(chosen: list[Case], contenders: list[Contender], console: Console) -> list[Result]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress:
        checking = progress.add_task("checking the numbers", total=len(chosen))
        for case in chosen:
            check(case, contenders)
            progress.advance(checking)
        measuring = progress.add_task("measuring", total=sum(case.repeats.rounds for case in chosen))
        results = []
        for case in chosen:
            progress.update(measuring, description=f"{case.title}, {case.rows}")
            gc.collect()
            results.append(Result(case, measure(case, contenders, lambda: progress.advance(measuring))))
    return results


if __name__ == "__main__":
    typer.run(run)
