"""How often a process that dies is started again, and when that makes no sense any more."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Of starting again.

    Attributes:
        first_delay_s: Before the second start in a row; then twice as long each time.
        longest_delay_s: Of such delays.
        quick_s: A process that has served for less has died quickly.
        most: Quick deaths in a row; one more, and it is given up.
    """

    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0
    quick_s: float = 60.0
    most: int = 5


class Deaths:
    """Those of the processes of one device, one after the other.

    Attributes:
        in_a_row: Quick ones, up to now.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.in_a_row = 0

    def delay_s(self, served_s: float) -> float | None:
        """How long to wait before the next start, after a death; None: it is given up.

        Args:
            served_s: How long the process has served; 0 if it never came to that.
        """
        self.in_a_row = self.in_a_row + 1 if served_s < self._pace.quick_s else 0
        if self.in_a_row > self._pace.most:
            return None
        if self.in_a_row == 0:
            return 0.0
        return min(self._pace.longest_delay_s, self._pace.first_delay_s * 2.0 ** (self.in_a_row - 1))
