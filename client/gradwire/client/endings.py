"""How commands end: one line for an error, and an exit code that scripts can tell apart.

0, all is well; 1, something was found wrong; 2, what was asked for is wrong; 3, no server answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from gradwire.client.errors import AccessError, GradwireError, InvalidCall, NotFound


@contextmanager
def told() -> Iterator[None]:
    """Errors of the client and of files end the command with one line."""
    try:
        yield
    except GradwireError as e:
        raise ended(str(e), 2 if isinstance(e, (InvalidCall, NotFound, AccessError)) else 3) from None
    except OSError as e:
        raise ended(f"{e.filename}: {e.strerror}" if e.filename else str(e), 2) from None


def ended(text: str, code: int) -> typer.Exit:
    """Says what is wrong, on stderr. Returns what to raise."""
    Console(stderr=True, soft_wrap=True).print(f"[red]error[/] {escape(text)}", highlight=False)
    return typer.Exit(code)
