"""``gradwire check``: a check of every operation of a model, as a table of findings.

Exit codes: 0, all granted operations are right; 1, an operation is wrong; 2, a wrong argument, name or permission;
3, no server answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from gradwire.client.card import ModelCard
from gradwire.client.check import Finding, check_model
from gradwire.client.commands.models import cells
from gradwire.client.commands.options import Address, Certificate, Key, Timeout, Tls, Token, TokenFile, connected
from gradwire.client.errors import InvalidCall
from gradwire.client.usage import Usage

_STYLES = {"ok": "green", "wrong": "bold red", "unclear": "yellow", "not granted": "dim"}


def check(
    address: Address,
    model: Annotated[str, typer.Argument(help="A name that `gradwire models` lists.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option(help="A .npz file of rows x and optional labels y.", show_default="random rows")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random rows and labels.")] = 0,
    token: Token = None,
    token_file: TokenFile = None,
    tls: Tls = None,
    certificate: Certificate = None,
    key: Key = None,
    timeout_s: Timeout = 60.0,
) -> None:
    """Check every operation of a model, and compare its gradients with central differences.

    Exit code 0: all granted operations are right; 1: an operation is wrong; 2: a wrong argument; 3: no server answers.

    Example: gradwire check 127.0.0.1:50051 digits --data test.npz
    """
    console = Console()
    with connected(address, token, token_file, tls, certificate, key, timeout_s) as server:
        x, y = (None, None) if data is None else _read(data)
        remote = server.estimator(model)
        console.print(_panel(remote.card))
        before = remote.usage()
        findings = []
        with console.status("checking") as status:
            for finding in check_model(remote, x, y, seed):
                findings.append(finding)
                status.update(f"{finding.operation}: {finding.verdict}")
        console.print(_findings(findings))
        console.print(_summary(findings, before, remote.usage()), highlight=False)
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


def _read(path: Path) -> tuple[Any, Any]:
    """Reads ``x``, and ``y`` or None, from a .npz file. Rejects arrays of objects: they would be unpickled."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["x"], file.get("y")
    except KeyError:
        raise InvalidCall(f"{path} contains no array x; make the file with numpy.savez(path, x=rows, y=labels)") from None
    except (ValueError, AttributeError, TypeError, EOFError):
        raise InvalidCall(
            f"{path} is not a .npz file of plain arrays; make the file with numpy.savez(path, x=rows, y=labels)"
        ) from None


def _panel(card: ModelCard) -> Panel:
    name, backend, row, _, access, operations, version, device = cells(card)
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
    for heading in ("operation", "verdict", "result"):
        table.add_column(heading, header_style="dim", overflow="fold", no_wrap=heading != "result")
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
    return f"{text}{unclear} [dim](used {rows})[/]"
