"""Least pace at which a peer must send and take the bytes of a call.

A peer that sends a byte now and then is never silent for long, and could hold a call and its memory for hours. Its pace is
the bytes moved in the time spent waiting for it; the server's own computing time does not count.
"""

from __future__ import annotations

from gradwire.server.errors import Stalled


class Pace:
    """Pace of the call under way.

    Args:
        min_bytes_per_s: Least pace; 0: any pace will do.
        window_s: Waiting time over which the pace is measured; then the measurement starts again.
    """

    __slots__ = ("_min_bytes_per_s", "_nbytes", "_waited_s", "_window_s")

    def __init__(self, min_bytes_per_s: float, window_s: float) -> None:
        self._min_bytes_per_s = min_bytes_per_s
        self._window_s = window_s
        self.begin()

    def begin(self) -> None:
        """Starts the measurement for a new call."""
        self._waited_s = 0.0
        self._nbytes = 0

    def waited(self, seconds: float, nbytes: int) -> None:
        """Counts time spent waiting for the peer, and the bytes moved in it. Raises Stalled."""
        self._waited_s += seconds
        self._nbytes += nbytes
        if self._waited_s < self._window_s:
            return
        if self._nbytes < self._min_bytes_per_s * self._waited_s:
            raise Stalled(
                f"{self._nbytes} bytes were sent or taken in {self._waited_s:.1f} s of waiting for them; the limit "
                f"min_bytes_per_s is {self._min_bytes_per_s:g}"
            )
        self.begin()
