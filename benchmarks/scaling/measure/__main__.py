"""Measure the costs that the model of scaling is fed with: ``python -m benchmarks.scaling.measure``.

The machine should have no other work. ``--postgres`` names a PostgreSQL with its own defaults: it must wait for its disk.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import machine
from benchmarks.scaling.costs import COSTS_FILE
from benchmarks.scaling.measure.attacks import attacks
from benchmarks.scaling.measure.calls import calls, one_host, refusal_us
from benchmarks.scaling.measure.runner import batches
from benchmarks.scaling.measure.stores import store

PARTS = ("calls", "runner", "refusal", "host", "attacks", "sqlite", "postgresql")


def measure(
    postgres: Annotated[
        str | None, typer.Option(help="URL of an empty PostgreSQL database; without it, that part is left out.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}; may be repeated. The others stay.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Little of everything; to try things out.")] = False,
    out: Annotated[Path, typer.Option(help="File of results; other parts in it stay.")] = COSTS_FILE,
) -> None:
    """Measure the costs of calls, attacks and databases on this machine; ten minutes."""
    if unknown := set(only or PARTS) - set(PARTS):
        raise typer.BadParameter(f"unknown part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    console = Console()
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"measured": {}, "stores": {}}
    for part in only or PARTS:
        if part == "postgresql" and postgres is None:
            console.print("postgresql: left out, no --postgres is given")
            continue
        console.rule(part)
        if part == "calls":
            found |= calls(quick)
        elif part == "runner":
            found["runner"] = batches()
        elif part == "refusal":
            found["refusal_us"] = refusal_us(quick)
        elif part == "host":
            found["host"] = one_host(quick)
        elif part == "attacks":
            found["attacks"] = attacks()
        elif part == "postgresql":
            assert postgres is not None
            found["stores"][part] = store(postgres, quick)
        else:
            with tempfile.TemporaryDirectory(dir=out.parent) as folder:
                found["stores"][part] = store(f"sqlite:///{folder}/gradwire.db", quick)
        found["measured"][part] = {**machine.facts(), "quick": quick}
        out.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"written: {out}", highlight=False)


if __name__ == "__main__":
    typer.run(measure)
