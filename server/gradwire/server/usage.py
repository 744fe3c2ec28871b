"""How many rows callers had computed, counted as AttackBench does: forward and backward apart.

A call is charged before the work; what is then not computed is given back. However often a client tries a call again
under one request id, it pays for the attempt that got furthest.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

_REMEMBERED = 100_000
"""Request ids kept against double charges; at a thousand calls a second the last hundred seconds' worth."""


@dataclass(frozen=True)
class Rows:
    """Rows that went forward, and rows that gradients came back for."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Rows) -> Rows:
        return Rows(self.forward + other.forward, self.backward + other.backward)

    def __sub__(self, other: Rows) -> Rows:
        return Rows(self.forward - other.forward, self.backward - other.backward)

    def at_least(self, other: Rows) -> Rows:
        """The larger of the two, forward and backward each."""
        return Rows(max(self.forward, other.forward), max(self.backward, other.backward))


_NONE = Rows()


@dataclass(eq=False)
class Charge:
    """What one attempt at a call is charged, and has had computed."""

    counter: Counter
    call: Call
    rows: Rows
    computed: Rows = _NONE

    def add_computed(self, rows: Rows) -> None:
        """Settles rows: they have been computed."""
        self.computed += rows

    def refund(self) -> None:
        """Ends the attempt and gives back what has not been computed. After the whole call has been computed, nothing."""
        before = self.call.due()
        self.call.attempts.remove(self)
        self.call.done = self.call.done.at_least(self.computed)
        self.counter.used += self.call.due() - before


@dataclass(eq=False)
class Call:
    """All attempts under one request id.

    Attributes:
        done: What the furthest of the attempts that have ended had computed.
        attempts: Those under way.
    """

    done: Rows = _NONE
    attempts: list[Charge] = field(default_factory=list)

    def due(self) -> Rows:
        """What the call costs now."""
        rows = self.done
        for attempt in self.attempts:
            rows = rows.at_least(attempt.rows)
        return rows


@dataclass
class Counter:
    """The rows that have been computed, or are being computed, under one served name."""

    used: Rows = _NONE
    _calls: OrderedDict[str, Call] = field(default_factory=OrderedDict)

    def charge(self, request_id: str, rows: Rows) -> Charge:
        """Counts a call's rows, less what other attempts under its request id are charged; an empty id is nobody else's."""
        call = self._calls.get(request_id) or Call()
        if request_id:
            self._calls[request_id] = call
            if len(self._calls) > _REMEMBERED:
                self._calls.popitem(last=False)
        before = call.due()
        charge = Charge(self, call, rows)
        call.attempts.append(charge)
        self.used += call.due() - before
        return charge
