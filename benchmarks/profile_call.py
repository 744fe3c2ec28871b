"""Show the microseconds of one call, station by station: ``python -m benchmarks.profile_call``.

See `benchmarks.account.ledger` for the stations; ``python -m benchmarks.run --only account`` writes the account that the
documentation shows.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.account.ledger import WAYS, Account, Line, account
from benchmarks.cases import ROW_OPERATIONS


def profile(
    operation: Annotated[str, typer.Argument(help=f"One of: {', '.join(ROW_OPERATIONS)}.")] = "loss_gradient",
    rows: Annotated[int, typer.Option(help="Rows of a call, in one block of the server's.", min=1, max=128)] = 1,
    calls: Annotated[int, typer.Option(min=10)] = 500,
    way: Annotated[str, typer.Option(help=f"One of: {', '.join(WAYS)}.")] = "socket",
) -> None:
    """Show the time between the stations of a call, from the caller's line to its result."""
    for given, known in ((operation, ROW_OPERATIONS), (way, WAYS)):
        if given not in known:
            raise typer.BadParameter(f"{given!r} is unknown; choose from {', '.join(known)}")
    Console().print(
        _table(f"{ROW_OPERATIONS[operation]} of {rows} row{'s' if rows > 1 else ''}, µs", account(operation, rows, calls, way))
    )


def _table(title: str, of: Account) -> Table:
    taken, made = of.shown
    where = "on the runner's thread" if of.through_queue else "where they were read, without a queue"
    caption = f"{taken} of {made} calls were computed {where}; the table is of these"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for column in ("", "median", "p10", "p90"):
        table.add_column(column, justify="right" if column else "left")
    for line in of.lines:
        table.add_row(*_cells(line))
    table.add_section()
    table.add_row(*_cells(of.whole))
    table.add_row(*_cells(of.unobserved))
    return table


def _cells(line: Line) -> list[str]:
    return [line.what, *(f"{value:.0f}" for value in (line.median_us, line.p10_us, line.p90_us))]


if __name__ == "__main__":
    typer.run(profile)
