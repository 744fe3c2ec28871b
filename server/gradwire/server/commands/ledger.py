"""``gradwire ledger``: what was asked of a server, by whom, as a table or a file; and an end to what is too old.

Exit codes: 0, done; 2, what was asked for is wrong; 3, the store does not answer.
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

ledger = typer.Typer(no_args_is_help=True, help="Who asked what of a server: its ledger of calls, shown, exported or shortened.")

StoreUrl: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--store", envvar="GRADWIRE_STORE", help="sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE.", show_default=False
    ),
]
Config: TypeAlias = Annotated[
    Path | None, typer.Option("--config", help="The file that the server is configured with, in place of --store.")
]
Principal: TypeAlias = Annotated[str | None, typer.Option(help="Only this caller's calls.")]
Model: TypeAlias = Annotated[str | None, typer.Option(help="Only calls of this model.")]
Operation: TypeAlias = Annotated[str | None, typer.Option(help="Only these calls, for example loss_gradient.")]
Outcome: TypeAlias = Annotated[str | None, typer.Option(help="Only calls that ended so: OK, BUDGET_SPENT, ...")]
Since: TypeAlias = Annotated[
    str | None, typer.Option(help="Calls from then on: 2026-11-21, 2026-11-21T09:30 (UTC if no zone is said), or 36h ago.")
]
Until: TypeAlias = Annotated[str | None, typer.Option(help="Calls before then.")]

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
    """Write calls to a file, the earliest first. A server may go on writing to the ledger meanwhile.

    Example: gradwire ledger export --config digits.yaml --format parquet --output calls.parquet --since 7d
    """
    with _told():
        if format == "parquet" and output is None:
            raise typer.BadParameter("Parquet cannot be written to stdout; name a file", param_hint="--output")
        wanted = CallFilter(principal, model, operation, outcome, _moment(since, "--since"), _moment(until, "--until"))
        with _opened(store, config) as opened:
            _export(opened, wanted, output, parquet=format == "parquet")


@ledger.command()
def show(
    store: StoreUrl = None,
    config: Config = None,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 20,
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
    with _told():
        wanted = CallFilter(principal, model, operation, outcome, _moment(since, "--since"), _moment(until, "--until"))
        with _opened(store, config) as opened:
            calls, count = opened.last_calls(last, wanted), opened.count_calls(wanted)
    Console().print(_table(calls[::-1], count))


@ledger.command()
def forget(
    until: Annotated[str, typer.Option(help="Calls before then: 2026-11-21, 2026-11-21T09:30 (UTC), or 90d ago.")],
    store: StoreUrl = None,
    config: Config = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove old calls for good, while servers run. What was used and what is left of budgets stays as it is.

    A server does so by itself where keep_calls_days is in its configuration. Export first what is to be kept.

    Example: gradwire ledger forget --config digits.yaml --until 90d
    """
    with _told():
        before = _moment(until, "--until")
        assert before is not None  # it was said
        with _opened(store, config) as opened:
            count = opened.count_calls(CallFilter(until=before))
            if not yes:
                typer.confirm(f"Remove {count} calls from before {before:%Y-%m-%d %H:%M:%S} UTC for good?", abort=True, err=True)
            removed = _forget(opened, before, count)
    Console().print(f"{removed} calls removed; a SQLite file keeps its size, and uses the room again", highlight=False)


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
    """A file appears under its name when it is whole."""
    console = Console(stderr=True)
    with _bar(console) as bar:
        task = bar.add_task("calls", total=store.count_calls(wanted) if console.is_terminal else None)
        if output is None:
            # A pipe's reader may be slow; a terminal's too.
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


def _opened(store: str | None, config: Path | None) -> Store:
    if config is not None:
        return Store.open(store_of(config), create=False)
    if store is not None:
        return Store.open(store, create=False)
    raise typer.BadParameter("say which: --store URL, or --config FILE of the server", param_hint="--store")


def _moment(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            return datetime.now(timezone.utc) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        # Before Python 3.11 fromisoformat does not know Z.
        parsed = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no moment; expected, for example, 2026-11-21, 2026-11-21T09:30, or 36h ago", param_hint=option
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


@contextmanager
def _told() -> Iterator[None]:
    """Errors end the command with one line."""
    try:
        yield
    except StoreConfigError as e:
        raise _ended(str(e), 2) from None
    except StoreUnavailable as e:
        raise _ended(str(e), 3) from None
    except BrokenPipeError:
        # The reader of stdout has what it wanted, as in `| head`; the interpreter must not try to flush once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except OSError as e:
        raise _ended(f"{e.filename or 'the output'}: cannot be written: {e.strerror}", 2) from None


def _ended(text: str, code: int) -> typer.Exit:
    Console(stderr=True, soft_wrap=True).print(f"[red]error[/] {escape(text)}", highlight=False)
    return typer.Exit(code)
