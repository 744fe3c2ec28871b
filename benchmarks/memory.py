"""Memory of a process, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path


def rss_nbytes(pid: int) -> int:
    """Returns the bytes that a process holds now."""
    return _status(pid, "VmRSS")


def peak_nbytes(pid: int) -> int:
    """Returns the most bytes that a process has held since it began, or since `forget_peak`."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Resets the peak to the bytes that are held now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
