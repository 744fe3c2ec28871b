"""Measure all figures of gradwire beside those of other implementations: ``python -m benchmarks.run``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import machine
from benchmarks.contenders.peers import PEERS
from benchmarks.figures.plot import plot
from benchmarks.figures.table import Scoreboard, show, write_json, write_markdown
from benchmarks.groups import GROUPS
from benchmarks.setting import RESULTS, Setting


def run(
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(GROUPS)}; may be repeated.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few calls; to try things out.")] = False,
    operation: Annotated[list[str] | None, typer.Option(help="Operations whose name contains this; may be repeated.")] = None,
    peer: Annotated[list[str] | None, typer.Option(help=f"Beside MLServer: {', '.join(PEERS)}; may be repeated.")] = None,
    no_mlserver: Annotated[bool, typer.Option("--no-mlserver", help="Leave MLServer out.")] = False,
    crowd_s: Annotated[float, typer.Option(help="How long the thousand clients stay, each way; 600 is the long form.")] = 60.0,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the last run's figures of the other groups.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where results go; benchmarks/results for a whole run, a temporary folder for another.")
    ] = None,
) -> None:
    """Measure gradwire beside plain torch, ART, MLServer and bare sockets. Exit code 1: a group could not be measured."""
    console = Console()
    for given, known, what in ((only, GROUPS, "group"), (peer, PEERS, "peer")):
        if unknown := [name for name in given or [] if name not in known]:
            raise typer.BadParameter(f"unknown {what}: {', '.join(unknown)}; choose from {', '.join(known)}")
    whole = resume or not (only or quick or operation or no_mlserver)
    out = out or (RESULTS if whole else Path(tempfile.gettempdir()) / "gradwire-benchmarks")
    out.mkdir(parents=True, exist_ok=True)
    facts = machine.facts()
    setting = Setting(quick, tuple(operation or ()), tuple(peer or ()), not no_mlserver, crowd_s, out, console)
    board = Scoreboard(facts, quick, {group: of.title for group, of in GROUPS.items()})
    if resume and (out / "figures.json").exists():
        board.keep(out / "figures.json")
    for group in only or GROUPS:
        console.rule(GROUPS[group].title)
        try:
            board.add(group, GROUPS[group].measure(setting))
        except Exception as e:  # the other groups can still be measured
            board.failures[group] = f"{type(e).__name__}: {e}"
            console.print(f"[red]error[/red] {group}: {board.failures[group]}", highlight=False)
        board.versions.update(setting.versions)
        # After each group: a run takes long, and may be ended.
        write_json(board, out / "figures.json")
        write_markdown(board, out / "figures.md")
        plot(board.figures, out / "figures.png")
    show(board, console)
    console.print(f"written: {out / 'figures.md'}, figures.png and figures.json", highlight=False)
    if board.failures:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(run)
