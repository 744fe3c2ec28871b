"""A log that writes at most so many lines a second, and then the number of the others."""

from __future__ import annotations

import logging
import time

_LINES_PER_S = 20
"""A client that repeats a mistake must not fill a disk."""

log = logging.getLogger("gradwire.server")


class LimitedLog:
    """Logs one kind of event at most 20 times a second. For use on one thread.

    Args:
        level: A level of `logging`.
        message: Message of each event.
        more: Message with the ``number`` of events of an earlier second that were not logged; logged with the next event.
    """

    def __init__(self, level: int, message: str, more: str) -> None:
        self._level = level
        self._message = message
        self._more = more
        self._second = 0
        self._count = 0

    def log(self, **fields: str) -> None:
        """Logs an event with its fields, or counts it if this second has enough lines."""
        second = int(time.monotonic())
        if second != self._second:
            if self._count > _LINES_PER_S:
                log.log(self._level, self._more, extra={"number": self._count - _LINES_PER_S})
            self._second, self._count = second, 0
        self._count += 1
        if self._count <= _LINES_PER_S:
            log.log(self._level, self._message, extra=fields)
