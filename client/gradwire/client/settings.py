"""Settings of a connection: retries and stream renewal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Retry:
    """Retries of calls that are safe to repeat. Fits are never retried.

    All attempts of a call share its time limit: no attempt begins after the connection's ``timeout_s``.

    Attributes:
        attempts: Total attempts, including the first.
        first_delay_s: Delay before the second attempt, if the server gives no retry hint.
        factor: Each delay is this many times the one before.
    """

    attempts: int = 4
    first_delay_s: float = 0.02
    factor: float = 3.0

    def delay_s(self, failed: int, asked_s: float | None) -> float:
        """Returns the delay after ``failed`` attempts; ``asked_s`` is the server's retry hint."""
        return max(asked_s or 0.0, self.first_delay_s * self.factor ** (failed - 1))


@dataclass(frozen=True)
class Renewal:
    """Limits after which an open stream is replaced, so that load balancers can move calls and servers can drain."""

    calls: int = 10_000
    seconds: float = 60.0
