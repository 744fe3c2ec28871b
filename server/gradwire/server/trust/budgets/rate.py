"""Limit of rows per second: a token bucket that holds the rows of one second."""

from __future__ import annotations

import time

from gradwire.server.errors import RateLimited


class RowRate:
    """Token bucket of the rows that one principal queries of one model.

    A call is admitted if the bucket holds its rows, or is full; a call larger than the bucket leaves it in debt. So the
    average never exceeds the rate, and no call is too large to be admitted.
    """

    def __init__(self) -> None:
        self._rows = float("inf")
        self._at_s = 0.0

    def enter(self, rows: int, rows_per_s: float) -> None:
        """Admits a call of so many rows. Raises RateLimited."""
        now_s = time.monotonic()
        self._rows = min(max(1.0, rows_per_s), self._rows + (now_s - self._at_s) * rows_per_s)
        self._at_s = now_s
        missing = min(rows, max(1.0, rows_per_s)) - self._rows
        if missing > 0:
            wait_s = missing / rows_per_s
            raise RateLimited(f"{rows} rows now would exceed {rows_per_s:g} rows a second; retry in {wait_s:.3g} s", wait_s)
        self._rows -= rows
