"""Limits on streams and calls of each caller, so that none shuts out the others."""

from __future__ import annotations

from collections import Counter

from gradwire.server.errors import QueueFull


class CallerCounts:
    """Numbers of open streams and running calls, by a caller name that the caller cannot choose.

    Args:
        max_streams: Most open streams of one caller.
        max_calls: Most calls of one caller, running and waiting; None: as many as the server admits.
    """

    def __init__(self, max_streams: int, max_calls: int | None) -> None:
        self._max_streams = max_streams
        self._max_calls = max_calls
        self._streams: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()

    def crowded(self, caller: str) -> bool:
        """Returns True if a caller has as many streams as it may have."""
        return self._streams[caller] >= self._max_streams

    def open_stream(self, caller: str) -> None:
        """Counts a stream. Raises QueueFull."""
        if self.crowded(caller):
            raise QueueFull(f"you have {self._streams[caller]} open streams, as many as max_streams allows; close some first")
        self._streams[caller] += 1

    def close_stream(self, caller: str) -> None:
        """Counts a stream as closed."""
        _less(self._streams, caller)

    def begin_call(self, caller: str) -> None:
        """Counts a call. Raises QueueFull."""
        if self._max_calls is not None and self._calls[caller] >= self._max_calls:
            raise QueueFull(f"{self._calls[caller]} of your calls run or wait, as many as max_queued_calls allows; retry later")
        self._calls[caller] += 1

    def end_call(self, caller: str) -> None:
        """Counts a call as ended."""
        _less(self._calls, caller)


def _less(counter: Counter[str], caller: str) -> None:
    counter[caller] -= 1
    if not counter[caller]:
        del counter[caller]
