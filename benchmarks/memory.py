"""What a process holds in memory, by the kernel's word."""

from __future__ import annotations

from pathlib import Path


def rss_nbytes(pid: int) -> int:
    """Memory that a process holds now."""
    return _status(pid, "VmRSS")


def peak_nbytes(pid: int) -> int:
    """Most memory that it has held since it began, or since `forget_peak`."""
    return _status(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Lets the peak begin anew, from what is held now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _status(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
