"""Files that are read again when they change, while the server runs.

What was read last and made sense stays in force: a file that is broken, half written or gone is logged once and changes
nothing. Files are looked at about once a second, by a thread of their own, and never while a call waits.
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
    """Something that looks at its files when it is told to."""

    def poll(self) -> bool: ...


class Watched(Generic[T]):
    """What stands in some files that belong together.

    Args:
        paths: The files.
        read: Makes the value of their bytes. Raises ValueError with a text that holds nothing secret.

    Attributes:
        value: What was read last and made sense.

    Raises:
        ValueError: What stands in them now makes no sense.
        OSError: One of them cannot be read now.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[..., T]) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._stamps = self._look()
        self.value: T = self._read_all()

    def poll(self) -> bool:
        """Reads the files if they have changed since; whether there is a new value."""
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        names = ", ".join(map(str, self._paths))
        try:
            self.value = self._read_all()
        except (ValueError, OSError) as e:
            log.error("a file has changed and is not taken; what was read before stays", extra={"file": names, "reason": str(e)})
            return False
        log.info("read again", extra={"file": names})
        return True

    def _look(self) -> tuple[_Stamp, ...]:
        return tuple(_stamp(path) for path in self._paths)

    def _read_all(self) -> T:
        return self._read(*(path.read_bytes() for path in self._paths))


async def watch(polled: Sequence[Polled]) -> None:
    """Looks at files over and over, until it is cancelled."""
    while polled:
        await asyncio.sleep(POLL_PERIOD_S)
        # In a thread, for a file system may hang.
        await asyncio.to_thread(_poll_all, polled)


def _poll_all(polled: Sequence[Polled]) -> None:
    for one in polled:
        try:
            one.poll()
        except Exception:
            # The others, and the next second, must not miss out on it.
            log.exception("a file could not be looked at")


def _stamp(path: Path) -> Any:
    """What changes when the file does; replaced in the same instant and with the same size, it is another inode."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size
