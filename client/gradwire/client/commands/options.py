"""Options shared by the client's commands, and the connection made from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from gradwire.client.commands.exit_codes import exit_on_errors
from gradwire.client.server import Server, connect
from gradwire.client.transport.credentials import caller

Address: TypeAlias = Annotated[str, typer.Argument(help="A server's address: host:port or unix:PATH.", show_default=False)]
Token: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Your token. Prefer the environment variable, which other users cannot see.", envvar="GRADWIRE_TOKEN"),
]
TokenFile: TypeAlias = Annotated[
    Path | None, typer.Option(help="A file that contains the token.", envvar="GRADWIRE_TOKEN_FILE", show_default=False)
]
Tls: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="Use TLS and trust the certificates in this PEM file, or 'system' for the system's.",
        envvar="GRADWIRE_TLS",
        show_default=False,
    ),
]
Certificate: TypeAlias = Annotated[
    Path | None, typer.Option(help="Your client certificate, a PEM file.", envvar="GRADWIRE_CERTIFICATE", show_default=False)
]
Key: TypeAlias = Annotated[
    Path | None, typer.Option(help="The certificate's key, a PEM file.", envvar="GRADWIRE_KEY", show_default=False)
]
Timeout: TypeAlias = Annotated[float, typer.Option("--timeout", help="Time limit of a call in seconds.")]


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
    """Connects to a server; errors end the command with one line and an exit code."""
    with exit_on_errors(), connect(address, **caller(token, token_file, tls, certificate, key), timeout_s=timeout_s) as server:
        yield server
