"""Counts of calls by served name, operation and outcome, with their rows and durations.

Labels are bounded: names that are not served count as `UNKNOWN`, and clones count for their original name.
Calls are counted on the event loop's thread, at about a microsecond each; any thread may read the counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gradwire.server.values.rows import Rows

UNKNOWN = "(unknown)"
"""Label of names that are not served; no model can have it."""

REFUSED = "(refused)"
"""Label of the operation of calls that were refused before it was read."""

SECONDS_BOUNDS = tuple(base * 10.0**power for power in range(-4, 3) for base in (1, 2, 5))
"""Upper bounds of the buckets of durations, 0.1 ms to 500 s; the last bucket has no bound."""


@dataclass
class Histogram:
    """Counts of values by bucket: above the bound before and up to its own; the last bucket has no bound."""

    bounds: Sequence[float] = SECONDS_BOUNDS
    total: float = 0.0
    counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass
class Calls:
    """Calls of one operation of one served name since the server's start.

    Attributes:
        outcomes: Numbers of calls by outcome, in the words of the ledger.
        forward: Forward rows charged.
        backward: Backward rows charged.
        seconds: Durations on the server, from the first message to the last.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    forward: int = 0
    backward: int = 0
    seconds: Histogram = field(default_factory=Histogram)


class Traffic:
    """Bytes on open streams, and refused calls that are not in the ledger.

    Attributes:
        received_nbytes: Bytes of received messages, without the overhead of gRPC and TLS.
        sent_nbytes: Bytes of sent messages, likewise.
        refused: Calls by outcome that ended without an entry in the ledger, except unauthenticated calls.
    """

    __slots__ = ("received_nbytes", "refused", "sent_nbytes")

    def __init__(self) -> None:
        self.received_nbytes = 0
        self.sent_nbytes = 0
        self.refused: dict[str, int] = {}


class Counts:
    """Counts of the calls of a server.

    Args:
        names: The served names of the configuration.

    Attributes:
        of: Counts by served name and operation.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.of: dict[tuple[str, str], Calls] = {}
        self._names = frozenset(names)

    def ended(self, model: str, operation: str, outcome: str, rows: Rows, seconds: float) -> None:
        """Counts one call.

        Args:
            model: Name that the caller gave, or the name that the call is charged under.
            operation: Operation, as in the ledger.
            outcome: Outcome, as in the ledger.
            rows: Charged rows.
            seconds: Duration of the call.
        """
        key = (model, operation)
        calls = self.of.get(key)
        if calls is None:
            calls = self.of.setdefault((model if model in self._names else UNKNOWN, operation), Calls())
        calls.outcomes[outcome] = calls.outcomes.get(outcome, 0) + 1
        calls.forward += rows.forward
        calls.backward += rows.backward
        calls.seconds.add(seconds)


def family(model: object) -> str:
    """Returns the original model of a clone's name, or the name itself."""
    return str(model).partition("~")[0]
