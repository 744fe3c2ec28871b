"""Files that are reloaded when they change, while the server runs.

The last valid content stays in force: a file that is invalid, half written or missing is logged once and changes
nothing. Files are checked about once a second, on a separate thread, and never while a call waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

log = logging.getLogger("gradwire.server")

T = TypeVar("T")

POLL_PERIOD_S = 1.0

_Stamp = tuple[int, int, int, int] | None


class Polled(Protocol):
    """An object that reloads its files."""

    def poll(self) -> bool:
        """Reloads the files if they have changed; True if there is a new value."""
        ...


class Watched(Generic[T]):
    """Value of one or several files, reloaded together.

    Args:
        paths: The files.
        read: Parses their bytes. Raises ValueError, with a text that contains no secret.

    Attributes:
        value: The last valid value.

    Raises:
        ValueError: Their current content is invalid.
        OSError: One of them cannot be read.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[..., T]) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._stamps = self._look()
        self.value: T = self._read_all()

    def poll(self) -> bool:
        """Reloads the files if they have changed; True if there is a new value."""
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        names = ", ".join(map(str, self._paths))
        try:
            self.value = self._read_all()
        except (ValueError, OSError) as e:
            log.error("a changed file is invalid; its last valid content stays in force", extra={"file": names, "reason": str(e)})
            return False
        log.info("reloaded", extra={"file": names})
        return True

    def _look(self) -> tuple[_Stamp, ...]:
        return tuple(_stamp(path) for path in self._paths)

    def _read_all(self) -> T:
        return self._read(*(path.read_bytes() for path in self._paths))


async def watch(polled: Sequence[Polled]) -> None:
    """Reloads changed files periodically, until it is cancelled."""
    while polled:
        await asyncio.sleep(POLL_PERIOD_S)
        # On a thread, because a file system may hang.
        await asyncio.to_thread(_poll_all, polled)


def _poll_all(polled: Sequence[Polled]) -> None:
    for one in polled:
        try:
            one.poll()
        except Exception:
            # An error in one file must not stop the reloading of others.
            log.exception("a file could not be checked for changes")


def _stamp(path: Path) -> Any:
    """Returns a value that changes with the file; a replacement of equal time and size has another inode."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
