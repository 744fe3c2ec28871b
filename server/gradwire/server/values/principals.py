"""Names of principals: the holders of tokens, certificates and grants."""

from __future__ import annotations

import re

PRINCIPAL = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"

ANONYMOUS = "anonymous"
"""Principal of every caller of a server without identity. No token or certificate may have this name."""


def check_principal(name: str) -> str:
    """Returns the name if a token, certificate or admin may have it. Raises ValueError otherwise."""
    if not re.fullmatch(PRINCIPAL, name):
        raise ValueError(
            f"{name[:80]!r} is not a principal's name; expected at most 64 letters, digits, '.', '_', '@' and '-', "
            "starting with a letter or digit"
        )
    if name == ANONYMOUS:
        raise ValueError(f"{name!r} is reserved for unauthenticated callers; choose another name")
    return name
