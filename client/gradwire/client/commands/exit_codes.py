"""Exit codes of commands, and one line on stderr for an error.

0: success; 1: the command found something wrong; 2: a wrong argument, name or permission; 3: no server answers, or it failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from gradwire.client.errors import AccessError, GradwireError, InvalidCall, NotFound


@contextmanager
def exit_on_errors() -> Iterator[None]:
    """Turns errors of the client and of files into one line on stderr and an exit code."""
    try:
        yield
    except GradwireError as e:
        raise error_exit(str(e), 2 if isinstance(e, (InvalidCall, NotFound, AccessError)) else 3) from None
    except OSError as e:
        raise error_exit(f"{e.filename}: {e.strerror}" if e.filename else str(e), 2) from None


def error_exit(text: str, code: int) -> typer.Exit:
    """Prints an error to stderr and returns the exception that ends the command with ``code``."""
    Console(stderr=True, soft_wrap=True).print(f"[red]error[/] {escape(text)}", highlight=False)
    return typer.Exit(code)
