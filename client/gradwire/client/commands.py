"""``gradwire models`` and ``gradwire check``.

Exit codes: 0, all is well; 1, a check has found something wrong; 2, what was asked for is wrong; 3, no server answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from gradwire.client.card import OPERATION_NAMES, ModelCard
from gradwire.client.check import Finding, check_model
from gradwire.client.connection import Server, connect
from gradwire.client.credentials import caller
from gradwire.client.endings import told
from gradwire.client.errors import InvalidCall
from gradwire.client.usage import Usage

Address: TypeAlias = Annotated[str, typer.Argument(help="host:port or unix:PATH of a server.", show_default=False)]
Token: TypeAlias = Annotated[
    str | None, typer.Option(help="Who calls. Better set in the environment, where others do not see it.", envvar="GRADWIRE_TOKEN")
]
TokenFile: TypeAlias = Annotated[
    Path | None, typer.Option(help="A file that holds the token.", envvar="GRADWIRE_TOKEN_FILE", show_default=False)
]
Tls: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Encrypt: 'system' for the system's certificates, or a PEM file to trust.", envvar="GRADWIRE_TLS", show_default=False
    ),
]
Certificate: TypeAlias = Annotated[
    Path | None, typer.Option(help="Your certificate, a PEM file.", envvar="GRADWIRE_CERTIFICATE", show_default=False)
]
Key: TypeAlias = Annotated[Path | None, typer.Option(help="Its key, a PEM file.", envvar="GRADWIRE_KEY", show_default=False)]
Timeout: TypeAlias = Annotated[float, typer.Option("--timeout", help="Seconds that a call may take.")]

_STYLES = {"ok": "green", "wrong": "bold red", "unclear": "yellow", "not granted": "dim"}


def models(
    address: Address,
    token: Token = None,
    token_file: TokenFile = None,
    tls: Tls = None,
    certificate: Certificate = None,
    key: Key = None,
    timeout_s: Timeout = 60.0,
) -> None:
    """List the models that a server offers to you.

    Example: gradwire models 127.0.0.1:50051
    """
    with opened(address, token, token_file, tls, certificate, key, timeout_s) as server:
        cards = server.models()
    table = Table(title=f"{len(cards)} models at {escape(address)}", title_justify="left", title_style="bold")
    for heading in ("name", "backend", "input", "classes", "access", "operations", "version", "device"):
        table.add_column(heading, overflow="fold", ratio=2 if heading == "operations" else None)
    for card in cards:
        table.add_row(*(escape(cell) for cell in _cells(card)))
    Console().print(table)


def check(
    address: Address,
    model: Annotated[str, typer.Argument(help="A name that `gradwire models` lists.", show_default=False)],
    data: Annotated[Path | None, typer.Option(help="A .npz file of rows x, maybe labels y.", show_default="random rows")] = None,
    seed: Annotated[int, typer.Option(help="Of what is random.")] = 0,
    token: Token = None,
    token_file: TokenFile = None,
    tls: Tls = None,
    certificate: Certificate = None,
    key: Key = None,
    timeout_s: Timeout = 60.0,
) -> None:
    """Try every operation of a model, and hold its gradients against central differences.

    Exit code 0: all that is granted is right; 1: something is wrong; 2: what you asked for is; 3: no server answers.

    Example: gradwire check 127.0.0.1:50051 digits --data test.npz
    """
    console = Console()
    with opened(address, token, token_file, tls, certificate, key, timeout_s) as server:
        x, y = (None, None) if data is None else _read(data)
        remote = server.estimator(model)
        console.print(_panel(remote.card))
        before = remote.usage()
        findings = []
        with console.status("asking") as status:
            for finding in check_model(remote, x, y, seed):
                findings.append(finding)
                status.update(f"{finding.operation}: {finding.verdict}")
        console.print(_findings(findings))
        console.print(_summary(findings, before, remote.usage()), highlight=False)
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


@contextmanager
def opened(
    address: str,
    token: str | None,
    token_file: Path | None,
    tls: str | None,
    certificate: Path | None,
    key: Path | None,
    timeout_s: float,
) -> Iterator[Server]:
    """A connection whose errors end the command with one line."""
    with told(), connect(address, **caller(token, token_file, tls, certificate, key), timeout_s=timeout_s) as server:
        yield server


def _read(path: Path) -> tuple[Any, Any]:
    """``x``, and ``y`` or None, of a .npz file. Arrays of objects are not read: they would be unpickled."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["x"], file.get("y")
    except KeyError:
        raise InvalidCall(f"{path} holds no array x; make it with numpy.savez(path, x=rows, y=labels)") from None
    except (ValueError, AttributeError, TypeError, EOFError):
        raise InvalidCall(f"{path} is not a .npz file of plain arrays; make it with numpy.savez(path, x=rows, y=labels)") from None


def _cells(card: ModelCard) -> tuple[str, ...]:
    operations = [name for name in OPERATION_NAMES.values() if name in card.operations]
    shape = "x".join("any" if size == -1 else str(size) for size in card.input_shape)
    row = f"{shape} {card.input_dtype}"
    return (card.name, card.backend, row, str(card.nb_classes), card.access, ", ".join(operations), card.version, card.device)


def _panel(card: ModelCard) -> Panel:
    name, backend, row, _, access, operations, version, device = _cells(card)
    lines = {
        "model": f"{backend} {card.task} on {device}, version {version}",
        "input": row + ("" if card.clip_values is None else f", clip values {_bounds(card.clip_values)}"),
        "output": f"{'x'.join(map(str, card.output_shape))} {card.output_dtype}, {card.output_kind}, {card.nb_classes} classes",
        "loss": f"{card.loss}, {card.loss_reduction}" if card.loss else "",
        "server side": ", ".join(
            (*(("standardisation",) if card.preprocessing else ()), *card.preprocessing_defences, *card.postprocessing_defences)
        ),
        "access": f"{access}: {operations}",
        "answers": ", ".join(sorted(card.answers)) if card.answers - {"outputs"} else "",
        "notes": "; ".join(card.notes),
    }
    grid = Table.grid(padding=(0, 2))
    for key, value in lines.items():
        if value:
            grid.add_row(f"[dim]{key}[/]", escape(value))
    return Panel(grid, title=f"[bold]{escape(name)}[/]", title_align="left", expand=False)


def _bounds(clip_values: tuple[Any, Any]) -> str:
    return " to ".join(f"{bound:g}" if bound.ndim == 0 else f"array {bound.shape}" for bound in clip_values)


def _findings(findings: list[Finding]) -> Table:
    table = Table(show_edge=False, pad_edge=False, box=None, padding=(0, 2, 0, 0))
    for heading in ("operation", "verdict", "found"):
        table.add_column(heading, header_style="dim", overflow="fold", no_wrap=heading != "found")
    for finding in findings:
        style = _STYLES[finding.verdict]
        found = escape(finding.text)
        table.add_row(finding.operation, f"[{style}]{finding.verdict}[/]", f"[dim]{found}[/]" if style == "dim" else found)
    return table


def _summary(findings: list[Finding], before: Usage, after: Usage) -> str:
    count = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in _STYLES}
    tried = len(findings) - count["not granted"]
    wrong = [finding.operation for finding in findings if finding.verdict == "wrong"]
    text = f"[bold red]wrong: {', '.join(wrong)}[/]" if wrong else f"[green]{count['ok']} of {tried} operations are right[/]"
    unclear = f", {count['unclear']} unclear" if count["unclear"] else ""
    rows = f"{after.forward - before.forward} rows forward and {after.backward - before.backward} backward"
    return f"{text}{unclear} [dim]({rows} were used)[/]"
