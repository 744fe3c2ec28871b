"""``python -m gradwire.client.demo ADDRESS --out DIR``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gradwire.client.demo.digits import held_out
from gradwire.client.errors import GradwireError
from gradwire.client.server import connect

if TYPE_CHECKING:
    from gradwire.client.demo.attacks import Outcome


def main(
    address: Annotated[str, typer.Argument(help="host:port of the server that `gradwire demo` started.")],
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("gradwire-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer images and weaker attacks.")] = False,
) -> None:
    """Attack the models digits and digits-labels at an address."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    np.random.seed(0)  # HopSkipJump's
    with console.status("importing ART, the Adversarial Robustness Toolbox (5 to 8 seconds)"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gradwire.client.demo import attacks, pictures
    x, y = held_out()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[rows]}"),
        TimeElapsedColumn(),
    )
    with connect(address) as server, Progress(*columns, console=console) as progress:
        for card in server.models():
            progress.console.print(
                f"[bold]{card.name}[/]: {card.backend} model, input {card.input_shape}, access [cyan]{card.access}[/]: "
                f"{', '.join(sorted(card.operations))}",
                highlight=False,
            )
        todo = attacks.attacks(quick)
        tasks = [progress.add_task(attack.name, total=attack.images, start=False, rows="") for attack in todo]
        curve = progress.add_task("accuracy over ε", total=None, start=False, rows="")
        outcomes = []
        for attack, task in zip(todo, tasks, strict=True):
            progress.start_task(task)

            def on_rows(done: int, forward: int, backward: int, task: object = task) -> None:
                progress.update(task, completed=done, rows=f"{forward:,} rows forward, {backward:,} backward")  # type: ignore[arg-type]

            outcomes.append(attacks.run(server, attack, x, y, on_rows))
        images = 40 if quick else 200
        progress.start_task(curve)
        progress.update(curve, total=5 if quick else 11)
        curves = attacks.robustness(server, x[:images], y[:images], quick, lambda done: progress.update(curve, completed=done))
    console.print()
    console.print(_table(outcomes))
    with console.status("drawing"):
        pictures.draw_attacks(outcomes, out / "attacks.png")
        pictures.draw_robustness(curves, out / "robustness.png")
    console.print()
    for name, text in (("attacks.png", "what the attacks did to digits"), ("robustness.png", "accuracy over ε")):
        console.print(f"[cyan]{escape(str(out / name))}[/]  [dim]{text}[/]", highlight=False, soft_wrap=True)


def _table(outcomes: list[Outcome]) -> Table:
    # As wide as a terminal of 80 columns.
    table = Table(
        title="Accuracy, clean and under attack, and what the attack cost",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("attack", style="bold", no_wrap=True)
    table.add_column("access used", no_wrap=True)
    for heading in ("images", "clean", "under\nattack", "rows\nfwd", "rows\nbwd", "seconds"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        table.add_row(
            outcome.attack.name,
            outcome.attack.uses,
            str(len(outcome.x)),
            f"{outcome.clean_accuracy:.1%}",
            f"[red]{outcome.accuracy:.1%}[/]",
            f"{outcome.forward:,}",
            f"{outcome.backward:,}",
            f"{outcome.seconds:.1f}",
        )
    return table


if __name__ == "__main__":
    try:
        typer.run(main)
    except GradwireError as e:
        sys.exit(f"error: {e}")
