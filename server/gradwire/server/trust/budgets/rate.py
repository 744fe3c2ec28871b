"""Rows a second: a bucket that fills steadily and holds one second's worth."""

from __future__ import annotations

import time

from gradwire.server.errors import RateLimited


class RowRate:
    """How fast one principal has been querying one model.

    A call is let in when the bucket holds its rows, or is full; a call larger than the bucket leaves it in debt. Over
    time nobody is faster than the rate, and no call is too large to be let in at all.
    """

    def __init__(self) -> None:
        self._rows = float("inf")
        self._at_s = 0.0

    def enter(self, rows: int, rows_per_s: float) -> None:
        """Lets a call in. Raises RateLimited."""
        now_s = time.monotonic()
        self._rows = min(max(1.0, rows_per_s), self._rows + (now_s - self._at_s) * rows_per_s)
        self._at_s = now_s
        missing = min(rows, max(1.0, rows_per_s)) - self._rows
        if missing > 0:
            wait_s = missing / rows_per_s
            raise RateLimited(
                f"{rows} rows now would be more than {rows_per_s:g} rows a second; come back in {wait_s:.3g} s", wait_s
            )
        self._rows -= rows
