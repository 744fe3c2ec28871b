"""Options that all client commands share, and the connection made of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from gradwire.client.commands.exit_codes import exit_on_errors
from gradwire.client.server import Server, connect
from gradwire.client.transport.credentials import caller

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


@contextmanager
def connected(
    address: str,
    token: str | None,
    token_file: Path | None,
    tls: str | None,
    certificate: Path | None,
    key: Path | None,
    timeout_s: float,
) -> Iterator[Server]:
    """A connection whose errors end the command with one line."""
    with exit_on_errors(), connect(address, **caller(token, token_file, tls, certificate, key), timeout_s=timeout_s) as server:
        yield server
