"""Command ``gradwire ledger``: shows, exports and deletes the recorded calls of a server.

Exit codes: 0, done; 2, wrong arguments; 3, the store does not answer.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gradwire.server.errors import StoreConfigError, StoreUnavailable
from gradwire.server.store.export import write_csv, write_parquet
from gradwire.server.store.records import CallFilter, CallRecord, moment
from gradwire.server.store.store import Store
from gradwire.server.store.url import store_of

ledger = typer.Typer(no_args_is_help=True, help="Show, export or delete the calls in a server's ledger.")

StoreUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--store", envvar="GRADWIRE_STORE", help="sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE.", show_default=False
    ),
]
Config: TypeAlias = Annotated[Path | None, typer.Option("--config", help="The server's configuration file, in place of --store.")]
Principal: TypeAlias = Annotated[str | None, typer.Option(help="Only calls of this caller.")]
Model: TypeAlias = Annotated[str | None, typer.Option(help="Only calls of this model.")]
Operation: TypeAlias = Annotated[str | None, typer.Option(help="Only calls of this operation, for example loss_gradient.")]
Outcome: TypeAlias = Annotated[str | None, typer.Option(help="Only calls with this outcome: OK, BUDGET_SPENT, ...")]
Since: TypeAlias = Annotated[
    str | None, typer.Option(help="Only calls since this time: 2026-11-21, 2026-11-21T09:30 (UTC without a zone), or 36h ago.")
]
Until: TypeAlias = Annotated[str | None, typer.Option(help="Only calls before this time.")]

_AGO = re.compile(r"(\d+)\s*([smhd])(\s+ago)?")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@ledger.command()
def export(
    store: StoreUrl = None,
    config: Config = None,
    format: Annotated[Literal["csv", "parquet"], typer.Option(help="Parquet needs gradwire[parquet].")] = "csv",
    output: Annotated[Path | None, typer.Option(help="The file to write.", show_default="stdout")] = None,
    principal: Principal = None,
    model: Model = None,
    operation: Operation = None,
    outcome: Outcome = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """Export calls to a file, the earliest first. Servers may continue to write to the ledger meanwhile.

    Example: gradwire ledger export --config digits.yaml --format parquet --output calls.parquet --since 7d
    """
    with _exit_on_error():
        if format == "parquet" and output is None:
            raise typer.BadParameter("Parquet cannot be written to stdout; set a file", param_hint="--output")
        wanted = CallFilter(principal, model, operation, outcome, _moment(since, "--since"), _moment(until, "--until"))
        with _open_store(store, config) as opened:
            _export(opened, wanted, output, parquet=format == "parquet")


@ledger.command()
def show(
    store: StoreUrl = None,
    config: Config = None,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="Number of calls.")] = 20,
    principal: Principal = None,
    model: Model = None,
    operation: Operation = None,
    outcome: Outcome = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """Show the last calls, the latest at the end.

    Example: gradwire ledger show --config digits.yaml --principal alice
    """
    with _exit_on_error():
        wanted = CallFilter(principal, model, operation, outcome, _moment(since, "--since"), _moment(until, "--until"))
        with _open_store(store, config) as opened:
            calls, count = opened.last_calls(last, wanted), opened.count_calls(wanted)
    Console().print(_table(calls[::-1], count))


@ledger.command()
def forget(
    until: Annotated[str, typer.Option(help="Delete calls before this time: 2026-11-21, 2026-11-21T09:30 (UTC), or 90d ago.")],
    store: StoreUrl = None,
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without confirmation.")] = False,
) -> None:
    """Delete old calls permanently, also while servers run. Usage and budgets stay unchanged.

    Servers with keep_calls_days in their configuration do this automatically. Export the calls to keep first.

    Example: gradwire ledger forget --config digits.yaml --until 90d
    """
    with _exit_on_error():
        before = _moment(until, "--until")
        assert before is not None  # --until is required
        with _open_store(store, config) as opened:
            count = opened.count_calls(CallFilter(until=before))
            if not yes:
                typer.confirm(f"Delete {count} calls before {before:%Y-%m-%d %H:%M:%S} UTC permanently?", abort=True, err=True)
            removed = _forget(opened, before, count)
    Console().print(f"{removed} calls deleted; a SQLite file keeps its size, and reuses the space", highlight=False)


def _forget(store: Store, before: datetime, count: int) -> int:
    console, removed = Console(stderr=True), 0
    with _bar(console) as bar:
        task = bar.add_task("calls", total=count)
        while part := store.forget_calls(before):
            removed += part
            bar.advance(task, part)
    return removed


def _bar(console: Console) -> Progress:
    columns = (TextColumn("calls"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _export(store: Store, wanted: CallFilter, output: Path | None, *, parquet: bool) -> None:
    """Writes calls to stdout or a file, which gets its name when it is complete."""
    console = Console(stderr=True)
    with _bar(console) as bar:
        task = bar.add_task("calls", total=store.count_calls(wanted) if console.is_terminal else None)
        if output is None:
            sys.stdout.reconfigure(newline="")  # type: ignore[union-attr]
            for size in write_csv(store.calls(wanted), sys.stdout):
                bar.advance(task, size)
            sys.stdout.flush()
            return
        partial = output.with_name(output.name + ".part")
        try:
            if parquet:
                for size in write_parquet(store.calls(wanted), partial):
                    bar.advance(task, size)
            else:
                with partial.open("w", newline="", encoding="utf-8") as file:
                    for size in write_csv(store.calls(wanted), file):
                        bar.advance(task, size)
            partial.replace(output)
        finally:
            partial.unlink(missing_ok=True)


def _table(calls: list[CallRecord], count: int) -> Table:
    title = f"the last {len(calls)} of {count} calls" if len(calls) < count else f"{count} calls"
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("at (UTC)", "principal", "model", "version", "operation", "outcome"):
        table.add_column(heading, overflow="fold")
    for heading in ("rows", "forward", "backward", "ms"):
        table.add_column(heading, justify="right")
    for call in calls:
        texts = (call.principal, call.model, call.version, call.operation)
        outcome = f"[green]{escape(call.outcome)}[/]" if call.outcome == "OK" else f"[red]{escape(call.outcome)}[/]"
        numbers = (str(call.rows), str(call.forward), str(call.backward), f"{call.latency_us / 1000:.1f}")
        at = moment(call.at_us).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        table.add_row(at, *(escape(text) for text in texts), outcome, *numbers)
    return table


def _open_store(store: str | None, config: Path | None) -> Store:
    if config is not None:
        return Store.open(store_of(config), create=False)
    if store is not None:
        return Store.open(store, create=False)
    raise typer.BadParameter("set the ledger: --store URL, or --config FILE of the server", param_hint="--store")


def _moment(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            return datetime.now(timezone.utc) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        # Before Python 3.11, fromisoformat rejects Z.
        parsed = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is not a time; expected, for example, 2026-11-21, 2026-11-21T09:30, or 36h ago", param_hint=option
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


@contextmanager
def _exit_on_error() -> Iterator[None]:
    """Ends the command after an error, with one line on stderr and an exit code."""
    try:
        yield
    except StoreConfigError as e:
        raise _exit(str(e), 2) from None
    except StoreUnavailable as e:
        raise _exit(str(e), 3) from None
    except BrokenPipeError:
        # The reader of stdout has closed it, as in `| head`; the interpreter must not flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except OSError as e:
        raise _exit(f"cannot write {e.filename or 'the output'}: {e.strerror}", 2) from None


def _exit(text: str, exit_code: int) -> typer.Exit:
    Console(stderr=True, soft_wrap=True).print(f"[red]error[/] {escape(text)}", highlight=False)
    return typer.Exit(exit_code)
