"""Errors of the commands about identity: one line on stderr, and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Ends the command after a wrong argument, or a file that cannot be read or written."""
    try:
        yield
    except OSError as e:
        raise _exit(f"{e.filename}: {e.strerror}" if e.filename else str(e)) from None
    except ValueError as e:
        raise _exit(str(e)) from None


def _exit(text: str) -> typer.Exit:
    Console(stderr=True, soft_wrap=True).print(f"[red]error[/] {escape(text)}", highlight=False)
    return typer.Exit(2)
