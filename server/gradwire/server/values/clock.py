"""Time of day that never goes back, for budgets and expiries.

If the machine's clock is set back, time stands still here until the clock has caught up. So no window opens twice, and
no expired grant or token becomes valid again.
"""

from __future__ import annotations

import time


class SteadyClock:
    """Clock in seconds since 1970, UTC."""

    def __init__(self) -> None:
        self._latest_s = 0.0

    def now_s(self) -> float:
        """Returns the time, at least as late as any time returned before."""
        self._latest_s = max(self._latest_s, time.time())
        return self._latest_s
