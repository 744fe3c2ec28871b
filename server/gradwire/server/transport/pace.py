"""How fast a peer sends and takes the bytes of a call.

A peer that drips, a byte now and then, is never silent for long, and would hold a call's place and memory for hours. So what
counts is bytes in the time for which the peer is waited for; the time in which the server computes is not the peer's.
"""

from __future__ import annotations

from gradwire.server.errors import Stalled


class Pace:
    """The pace of the call under way.

    Args:
        min_bytes_per_s: Slower than this is too slow; 0: nothing is.
        window_s: How long a peer must have been waited for before its pace is judged; then it is judged anew.
    """

    __slots__ = ("_min_bytes_per_s", "_nbytes", "_waited_s", "_window_s")

    def __init__(self, min_bytes_per_s: float, window_s: float) -> None:
        self._min_bytes_per_s = min_bytes_per_s
        self._window_s = window_s
        self.begin()

    def begin(self) -> None:
        """A new call begins."""
        self._waited_s = 0.0
        self._nbytes = 0

    def waited(self, seconds: float, nbytes: int) -> None:
        """The peer was waited for, and sent or took some bytes then. Raises Stalled."""
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
