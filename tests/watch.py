"""Notes what this process starts and imports that takes time, by Python's own audit events."""

from __future__ import annotations

import sys
from typing import Any

from frameworks import FRAMEWORKS, QUICK

_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})
_noted: list[str] = []


def begin() -> None:
    """Notes from now on; what is audited once is audited until the process ends."""
    sys.addaudithook(_note)


def broken() -> list[str]:
    """Events since the last call of this function."""
    found = list(dict.fromkeys(_noted))
    _noted.clear()
    return found


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _STARTS:
        _noted.append(event)
    elif event == "import" and arguments[0] in FRAMEWORKS - QUICK:
        _noted.append(f"import {arguments[0]}")
