"""``gradwire bench``: load test of a server, as a table and as JSON.

Exit codes: 0, measured; 1, every call of an operation failed; 2, a wrong argument, name or permission; 3, no server answers.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from gradwire.client.commands.exit_codes import error_exit, exit_on_errors
from gradwire.client.commands.options import Address, Certificate, Key, Timeout, Tls, Token, TokenFile
from gradwire.client.errors import InvalidCall
from gradwire.client.load.calls import OPERATIONS
from gradwire.client.load.plan import Load, Step, Target, plan
from gradwire.client.load.report import Figures, Report, all_failed, as_json, cores
from gradwire.client.load.run import Progress, run_load
from gradwire.client.transport.credentials import caller

_BUSY_CORES = 0.8
"""A process that uses so much of a core has its interpreter's lock for most of the time."""


def bench(
    address: Address,
    model: Annotated[str, typer.Argument(help="A name that `gradwire models` lists.", show_default=False)],
    operation: Annotated[
        list[str] | None,
        typer.Option("--operation", "-o", help=f"An operation, out of: {', '.join(OPERATIONS)}.", show_default="all granted"),
    ] = None,
    mix: Annotated[
        str | None, typer.Option(help="A mix of operations with weights: predict=9,loss_gradient=1.", show_default=False)
    ] = None,
    rows: Annotated[list[int] | None, typer.Option("--rows", "-n", help="Rows per call.", show_default="1")] = None,
    concurrency: Annotated[
        list[int] | None, typer.Option("--concurrency", "-c", help="Clients, each with one call at a time.", show_default="1")
    ] = None,
    duration_s: Annotated[float, typer.Option("--duration", "-d", help="Duration of a measurement in seconds.")] = 5.0,
    warmup_s: Annotated[float, typer.Option("--warmup", help="Duration of the warm-up in seconds, not counted.")] = 1.0,
    processes: Annotated[
        int | None,
        typer.Option(help="Processes of clients; 0: threads of this process.", show_default="one a client, at most one a core"),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Calls per second, sent when due even if earlier ones are not answered.", show_default=False),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Shape of a row, for models that accept any size: 3,224,224.", show_default=False)
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="The layer for activations, by name or index.", show_default="the last but one")
    ] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the full report as JSON; - for stdout.", show_default=False)
    ] = None,
    same_host: Annotated[bool, typer.Option(help="Let calls on this host use the server's Unix socket.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the random rows.")] = 0,
    token: Token = None,
    token_file: TokenFile = None,
    tls: Tls = None,
    certificate: Certificate = None,
    key: Key = None,
    timeout_s: Timeout = 60.0,
) -> None:
    r"""Measure latency and throughput of a model's operations under load.

    Rows are random, within the clip values of the model's card. They count
    against a budget. The options -o, -n and -c may be repeated; each combination
    is a measurement of its own.

    Clients call again as soon as they are answered. With --rate calls are due
    at fixed times, and latencies count from these, so that a stalling server
    does not look better. Ctrl-C stops the run and shows the results so far.

    Exit code 0: measured; 1: every call of an operation failed; 2: a wrong
    argument; 3: no server answers.

    \b
    All operations that you are granted, one client:
      gradwire bench 127.0.0.1:50051 digits
    Two operations at two sizes, 1 and 16 clients, figures for a script:
      gradwire bench gpu-node:50051 digits -o predict -o loss_gradient \
        -n 1 -n 32 -c 1 -c 16 --json figures.json
    A mix of calls, 200 a second:
      gradwire bench gpu-node:50051 digits --rate 200 -c 32 -d 30 \
        --mix predict=9,loss_gradient=1
    """
    with exit_on_errors():
        load = plan(
            Target(address, model, timeout_s=timeout_s, same_host=same_host, **caller(token, token_file, tls, certificate, key)),
            operations=operation or (),
            mix=None if mix is None else _mix(mix),
            rows=rows or (1,),
            concurrency=concurrency or (1,),
            duration_s=duration_s,
            warmup_s=warmup_s,
            processes=min(max(concurrency or (1,)), cores()) if processes is None else processes,
            rate_per_s=rate,
            shape=None if shape is None else _shape(shape),
            layer=_layer(layer),
            seed=seed,
        )
        _check_writable(json)
        report = _run(load)
    _show(report, Console(stderr=json == "-"))
    if json == "-":
        sys.stdout.write(as_json(report))
    elif json is not None:
        with exit_on_errors():
            Path(json).write_text(as_json(report))
    if not report.figures:
        raise error_exit("nothing was measured", 1)
    if all_failed(report.figures):
        raise typer.Exit(1)


# Options.


def _mix(text: str) -> dict[str, float]:
    parts = [part.partition("=") for part in text.split(",")]
    try:
        weights = {name.strip(): float(weight) if sign else 1.0 for name, sign, weight in parts}
    except ValueError:
        raise InvalidCall(f"--mix is {text!r}; expected names and weights, as in predict=9,loss_gradient=1") from None
    if len(weights) < len(parts):
        raise InvalidCall(f"--mix is {text!r}; expected each operation once")
    return weights


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+([,x]\d+)*", text):
        raise InvalidCall(f"--shape is {text!r}; expected the sizes of a row, as in 3,224,224")
    return tuple(int(size) for size in re.split("[,x]", text))


def _layer(text: str | None) -> str | int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else text


def _check_writable(json: str | None) -> None:
    """Checks the path of the report before the measurements. Raises InvalidCall."""
    if json is None or json == "-":
        return
    path = Path(json)
    if (
        path.is_dir()
        or not path.resolve().parent.is_dir()
        or not os.access(path if path.exists() else path.resolve().parent, os.W_OK)
    ):
        raise InvalidCall(f"--json {json} cannot be written; expected a file in an existing folder, or - for stdout")


# While it runs.


def _run(load: Load) -> Report:
    stop = threading.Event()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[now]}"), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar, _ended_by_interrupts(stop):
        each_s = load.warmup_s + load.duration_s
        task = bar.add_task("", total=load.seconds, now="")

        def show(progress: Progress) -> None:
            per_s = progress.calls / progress.seconds if progress.seconds else 0.0
            failed = f", [red]{progress.failed:,} failed[/]" if progress.failed else ""
            bar.update(
                task,
                description=escape(_title(progress.step)),
                completed=progress.number * each_s + min(progress.seconds, each_s),
                now=f"{per_s:,.0f} calls/s{failed}",
            )

        return run_load(load, show, stop)


@contextmanager
def _ended_by_interrupts(stop: threading.Event) -> Iterator[None]:
    """Stops the measurements at the first Ctrl-C, and the command at the second."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _title(step: Step) -> str:
    operations = " + ".join(operation for operation, _ in step.mix)
    return f"{operations}, {_count(step.rows, 'row')}, {_count(step.concurrency, 'client')}"


# Output.


def _show(report: Report, console: Console) -> None:
    if report.figures:
        console.print(f"[bold]{escape(_heading(report))}[/]", highlight=False, soft_wrap=True)
        console.print(_table(report))
    for line in remarks(report):
        console.print(f"[yellow]{escape(line)}[/]", highlight=False)


def _heading(report: Report) -> str:
    clients = sorted({of.concurrency for of in report.figures})
    how = [_count(clients[0], "client") if len(clients) == 1 else f"{clients[0]:,} to {clients[-1]:,} clients"]
    if report.processes and clients[-1] > 1:
        how[0] += f" in {_count(min(report.processes, clients[-1]), 'process')}"
    how.append("latencies in ms" if report.rate_per_s is None else f"{report.rate_per_s:g} calls/s due, latencies from then in ms")
    return f"{report.model} at {report.address}: {', '.join(how)}"


def _table(report: Report) -> Table:
    """Makes the table of figures, without columns that are equal in every row."""
    measured = report.figures
    table = Table(show_edge=False, pad_edge=False, box=None)
    table.add_column("operation", header_style="dim", overflow="fold")
    columns = [(heading, cell) for heading, cell in _COLUMNS.items() if heading not in _OPTIONAL or _OPTIONAL[heading](measured)]
    for heading, _ in columns:
        table.add_column(heading, header_style="dim", justify="right", no_wrap=True)
    for of in measured:
        table.add_row(escape(of.operation), *(cell(of) for _, cell in columns))
    return table


def remarks(report: Report) -> Iterator[str]:
    """Yields remarks that the figures need to be read correctly."""
    if report.interrupted:
        yield "stopped early"
    yield from (f"left out: {text}" for text in report.left_out)
    for of in report.figures:
        for kind, failure in of.errors.items():
            yield f"{_name(of)}: {failure.calls:,} of {of.calls + of.failed:,} calls failed, {kind}: {failure.text}"
    late = {(of.rows, of.concurrency, of.operation if of.weight is None else "the mix"): of.unsent for of in report.figures}
    for (rows, clients, operation), unsent in late.items():
        if unsent:
            yield (
                f"{operation}, {_count(rows, 'row')}, {_count(clients, 'client')}: {unsent:,} due calls were not made, because "
                "no client was free; latencies omit them. Use a lower --rate, or more --concurrency"
            )
    busiest = max((of.client_cores or 0.0 for of in report.figures), default=0.0)
    if busiest >= _BUSY_CORES:
        yield (
            f"a process of clients used {busiest:.2f} cores: the clients may limit the figures, not the server. "
            "Use more --processes, or clients on another machine"
        )


def _name(of: Figures) -> str:
    return f"{of.operation}, {_count(of.rows, 'row')}, {_count(of.concurrency, 'client')}"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def _rate(per_s: float) -> str:
    return f"{per_s:,.1f}" if per_s < 99.95 else f"{per_s:,.0f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


_COLUMNS: dict[str, Callable[[Figures], str]] = {
    "rows": lambda of: f"{of.rows:,}",
    "clients": lambda of: f"{of.concurrency:,}",
    "calls": lambda of: f"{of.calls:,}",
    "p50": lambda of: _ms(of.p50_ms),
    "p90": lambda of: _ms(of.p90_ms),
    "p99": lambda of: _ms(of.p99_ms),
    "max": lambda of: _ms(of.max_ms),
    "calls/s": lambda of: _rate(of.calls_per_s),
    "rows/s": lambda of: _rate(of.rows_per_s),
    "failed": lambda of: f"[red]{of.failed:,}[/]" if of.failed else "",
}
_OPTIONAL: dict[str, Callable[[Sequence[Figures]], bool]] = {
    "clients": lambda measured: len({of.concurrency for of in measured}) > 1,
    "failed": lambda measured: any(of.failed for of in measured),
}
