"""The names of principals: those whom tokens and certificates speak for, and to whom grants are given."""

from __future__ import annotations

import re

PRINCIPAL = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"

ANONYMOUS = "anonymous"
"""Who calls where nobody is asked who they are. No token and no certificate speaks for it."""


def check_principal(name: str) -> str:
    """Returns the name of someone who can be known. Raises ValueError."""
    if not re.fullmatch(PRINCIPAL, name):
        raise ValueError(
            f"{name[:80]!r} is not a principal's name; expected at most 64 letters, digits, '.', '_', '@' and '-', "
            "the first of them a letter or digit"
        )
    if name == ANONYMOUS:
        raise ValueError(f"{name!r} is who calls where nobody is asked who they are; choose another name")
    return name
