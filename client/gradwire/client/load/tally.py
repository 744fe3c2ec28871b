"""Tallies of calls: every latency, and failures by kind."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Failure:
    """Calls that failed in the same way.

    Attributes:
        calls: Number of calls.
        text: Error text of the first.
    """

    calls: int
    text: str


@dataclass
class Tally:
    """Measured calls of one operation, of one client or several.

    Attributes:
        latencies_s: Latencies of answered calls: float32, 4 bytes per call.
        failures: Failed calls by the names of their errors.
    """

    latencies_s: array[float] = field(default_factory=lambda: array("f"))
    failures: dict[str, Failure] = field(default_factory=dict)

    def failed(self, error: Exception) -> None:
        """Counts a call that failed."""
        kind = type(error).__name__
        before = self.failures.get(kind)
        self.failures[kind] = Failure(1, str(error)) if before is None else Failure(before.calls + 1, before.text)

    def add(self, other: Tally) -> None:
        """Adds the calls of another tally."""
        self.latencies_s.extend(other.latencies_s)
        for kind, failure in other.failures.copy().items():
            before = self.failures.get(kind, Failure(0, failure.text))
            self.failures[kind] = Failure(before.calls + failure.calls, before.text)
