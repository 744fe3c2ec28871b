"""Child processes of a process, from the kernel's files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def children(pid: int) -> list[int]:
    """Pids of the children; none for a process that has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def runs(pid: int) -> bool:
    """True if a process runs; False for a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Waits until a condition is true."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, f"the condition is not true after {within_s:g} s"
        time.sleep(0.02)
