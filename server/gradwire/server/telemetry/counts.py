"""What has been asked of a server: calls by served name, operation and outcome, their rows and how long they took.

Labels are bounded: a name that a caller makes up counts as `UNKNOWN`, and clones count for the name that they come from.
Counted on the event loop's thread, where a call costs about a microsecond; read from any thread.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gradwire.server.values.rows import Rows

UNKNOWN = "(unknown)"
"""In place of names that are not served; no model can have it."""

REFUSED = "(refused)"
"""In place of the operation of calls that were refused before that was read."""

SECONDS_BOUNDS = tuple(base * 10.0**power for power in range(-4, 3) for base in (1, 2, 5))
"""Upper bounds of the buckets of durations, 0.1 ms to 500 s; the last bucket has none."""


@dataclass
class Histogram:
    """How many values were at most each bound, and more than the one before; the last count is for more than all bounds."""

    bounds: Sequence[float] = SECONDS_BOUNDS
    total: float = 0.0
    counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Counts one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass
class Calls:
    """Calls of one operation of one served name since the server's start.

    Attributes:
        outcomes: How many ended how, by the ledger's words.
        forward: Rows charged.
        backward: Likewise.
        seconds: How long they took on the server, from their first message to their last.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    forward: int = 0
    backward: int = 0
    seconds: Histogram = field(default_factory=Histogram)


class Traffic:
    """What comes and goes besides calls that are in the ledger.

    Attributes:
        received_nbytes: Of the messages on open streams, without what gRPC and TLS put around them.
        sent_nbytes: Likewise.
        refused: Calls that ended before anything was written down of them, by outcome; not those of callers who are not known.
    """

    __slots__ = ("received_nbytes", "refused", "sent_nbytes")

    def __init__(self) -> None:
        self.received_nbytes = 0
        self.sent_nbytes = 0
        self.refused: dict[str, int] = {}


class Counts:
    """The calls of a server.

    Args:
        names: The served names of the configuration.

    Attributes:
        of: By served name and operation.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.of: dict[tuple[str, str], Calls] = {}
        self._names = frozenset(names)

    def ended(self, model: str, operation: str, outcome: str, rows: Rows, seconds: float) -> None:
        """Counts one call.

        Args:
            model: What the caller named, or what that is charged as.
            operation: One of the server's own words, as the outcome is.
            outcome: As in the ledger.
            rows: Charged.
            seconds: It took.
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
    """The loaded model that a clone's work counts for, or the model itself."""
    return str(model).partition("~")[0]
