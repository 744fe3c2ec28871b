"""Small values that say how a connection behaves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Retry:
    """How calls that can safely be made again are made again. Fit never is.

    All attempts of a call share its time: there is none after the connection's ``timeout_s``.

    Attributes:
        attempts: In all, the first one included.
        first_delay_s: Before the second attempt, where the server does not say how long.
        factor: By which each delay is longer than the one before.
    """

    attempts: int = 4
    first_delay_s: float = 0.02
    factor: float = 3.0

    def delay_s(self, failed: int, asked_s: float | None) -> float:
        """How long to wait after ``failed`` attempts; ``asked_s`` is what the server asked for."""
        return max(asked_s or 0.0, self.first_delay_s * self.factor ** (failed - 1))


@dataclass(frozen=True)
class Renewal:
    """When an open stream gives way to a new one, so that balancers and draining servers get their turn."""

    calls: int = 10_000
    seconds: float = 60.0
