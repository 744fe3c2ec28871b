"""The time of day, for budgets and expiries: it never goes back.

A machine's clock may be set back; then time stands still here until the clock has caught up, so that no window opens
twice and nothing that has expired comes back.
"""

from __future__ import annotations

import time


class SteadyClock:
    """Seconds since 1970, UTC."""

    def __init__(self) -> None:
        self._latest_s = 0.0

    def now_s(self) -> float:
        self._latest_s = max(self._latest_s, time.time())
        return self._latest_s
