"""Policy of restarts: delays that double, and a limit of failures in a row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RestartPolicy:
    """Delays and limit of restarts.

    Attributes:
        first_delay_s: Delay after the first quick failure; it doubles with each further one.
        longest_delay_s: Largest delay.
        quick_s: A process that has served for less has failed quickly.
        most: Quick failures in a row that are followed by a restart.
    """

    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0
    quick_s: float = 60.0
    most: int = 5


class RestartCount:
    """Quick failures of the successive processes of one device.

    Attributes:
        in_a_row: Number of quick failures in a row.
    """

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self.in_a_row = 0

    def delay_s(self, served_s: float) -> float | None:
        """Counts a failure, and returns the delay before the restart; None if the limit is reached.

        Args:
            served_s: Time for which the process has served; 0 if it never did.
        """
        self.in_a_row = self.in_a_row + 1 if served_s < self._policy.quick_s else 0
        if self.in_a_row > self._policy.most:
            return None
        if self.in_a_row == 0:
            return 0.0
        return min(self._policy.longest_delay_s, self._policy.first_delay_s * 2.0 ** (self.in_a_row - 1))
