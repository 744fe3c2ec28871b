"""Command ``gradwire token``: makes, lists and revokes the tokens of a file.

Running servers reload the file within about a second.
"""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gradwire.server.commands.terminal import exit_on_error
from gradwire.server.commands.times import end_of
from gradwire.server.trust.identity.tokens import Token, change_tokens, new_token, read_tokens

app = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke the tokens with which callers authenticate.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name: TypeAlias = Annotated[str, typer.Argument(help="Name of the caller.", show_default=False)]
File: TypeAlias = Annotated[Path, typer.Option("--file", "-f", help="Token file: identity.tokens of the server.")]


@app.command()
def new(
    name: Name,
    file: File = Path("tokens.yaml"),
    expires: Annotated[str | None, typer.Option(help="12h, 30d, 8w, or a date (UTC).", show_default="never")] = None,
) -> None:
    """Make a token, and print it once. The file stores only its hash.

    A name may have several tokens, so that one can be replaced while it is in use.

    Example: gradwire token new alice --expires 90d > alice.token
    """
    with exit_on_error():
        now = datetime.now(timezone.utc)
        text, token = new_token(name, now, None if expires is None else end_of(expires, now))
        change_tokens(file, lambda tokens: [*tokens, token])
    until = "" if token.expires is None else f", valid until {_time(token.expires)}"
    sys.stderr.write(f"token {token.id} of {name}{until}; it is not shown again\n")
    print(text)


@app.command(name="list")
def list_tokens(file: File = Path("tokens.yaml")) -> None:
    """List the tokens of a file with their callers and expiry times.

    Example: gradwire token list
    """
    with exit_on_error():
        tokens = read_tokens(file)
    table = Table(show_edge=False, pad_edge=False, box=None, padding=(0, 2, 0, 0))
    for heading in ("name", "id", "created", "expires"):
        table.add_column(heading, header_style="dim")
    now = datetime.now(timezone.utc)
    for token in sorted(tokens, key=lambda token: (token.name, token.created)):
        until = "never" if token.expires is None else _time(token.expires)
        over = " [red]expired[/]" if token.expired(now) else ""
        table.add_row(escape(token.name), token.id, _time(token.created), until + over)
    Console().print(table)


@app.command()
def revoke(
    name: Name,
    file: File = Path("tokens.yaml"),
    id: Annotated[str | None, typer.Option("--id", help="Id of one token, from `gradwire token list`.", show_default="all")] = None,
) -> None:
    """Revoke a caller's tokens. Their next call is rejected, also on open streams.

    Example: gradwire token revoke alice --id 5f3a9c01
    """
    revoked: list[Token] = []

    def without(tokens: list[Token]) -> list[Token]:
        revoked.extend(token for token in tokens if token.name == name and (id is None or token.id == id))
        if not revoked:
            of = name if id is None else f"{name} with the id {id}"
            known = ", ".join(sorted({token.name for token in tokens})) or "none"
            raise ValueError(f"{file} has no token of {of}; it has tokens of: {known}")
        return [token for token in tokens if token not in revoked]

    with exit_on_error():
        if not file.exists():
            raise ValueError(f"{file} does not exist")
        change_tokens(file, without)
    print(f"revoked tokens of {name}: {', '.join(token.id for token in revoked)}")


def _time(time: datetime) -> str:
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"
