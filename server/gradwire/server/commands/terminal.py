"""How the commands about identity end when something is wrong: one line on stderr, and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape


@contextmanager
def told() -> Iterator[None]:
    """What was given wrong, and files that cannot be read or written, end the command."""
    try:
        yield
    except OSError as e:
        raise _wrong(f"{e.filename}: {e.strerror}" if e.filename else str(e)) from None
    except ValueError as e:
        raise _wrong(str(e)) from None


def _wrong(text: str) -> typer.Exit:
    Console(stderr=True, soft_wrap=True).print(f"[red]error[/] {escape(text)}", highlight=False)
    return typer.Exit(2)
