"""``gradwire top``: a live table of a server's activity, for its admins."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape

from gradwire.client.commands.options import Address, Certificate, Key, Timeout, Tls, Token, TokenFile, connected
from gradwire.client.errors import Unavailable
from gradwire.client.server import Server
from gradwire.client.top.activity import Activity, activity
from gradwire.client.top.table import shown
from gradwire.v1 import status_pb2 as pb
from gradwire.v1 import status_pb2_grpc


def top(
    address: Address,
    once: Annotated[bool, typer.Option("--once", help="Show the activity since the server's start, then exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON per period in place of the table.")] = False,
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Length of a period in seconds.")] = 1.0,
    token: Token = None,
    token_file: TokenFile = None,
    tls: Tls = None,
    certificate: Certificate = None,
    key: Key = None,
    timeout_s: Timeout = 10.0,
) -> None:
    """Watch a server's calls, rows, latencies, batches and devices. Ctrl-C ends it.

    For admins of the server; without authentication, for all callers on its host. Latencies are measured on the server.

    Example: gradwire top 127.0.0.1:50051
    """
    console = Console()
    with connected(address, token, token_file, tls, certificate, key, timeout_s) as server:
        if once:
            _print(console, activity(_read(server)), as_json)
            return
        with suppress(KeyboardInterrupt):
            if as_json or not console.is_terminal:
                for seen in _periods(server, every_s):
                    _print(console, seen, as_json)
            else:
                _live(console, server, every_s)


def _live(console: Console, server: Server, every_s: float) -> None:
    before, latest = _read(server), None
    with Live(shown(activity(before)), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every_s)
            try:
                now = _read(server)
            except Unavailable as e:
                # The server may come back: keep the last table.
                live.update(Group(f"[bold red]no answer:[/] {escape(str(e))}", latest or ""), refresh=True)
                continue
            latest, before = shown(activity(now, before)), now
            live.update(latest, refresh=True)


def _periods(server: Server, every_s: float) -> Iterator[Activity]:
    before = _read(server)
    while True:
        time.sleep(every_s)
        now = _read(server)
        yield activity(now, before)
        before = now


def _read(server: Server) -> pb.GetStatusResponse:
    def ask(call: dict[str, Any]) -> pb.GetStatusResponse:
        answer: pb.GetStatusResponse = status_pb2_grpc.StatusServiceStub(server.connection.channel()).GetStatus(
            pb.GetStatusRequest(), **call
        )
        return answer

    return server.connection.ask(ask)


def _print(console: Console, seen: Activity, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dataclasses.asdict(seen)), flush=True)
    else:
        console.print(shown(seen), highlight=False)
