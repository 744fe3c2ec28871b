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


@dataclass
class Charge:
    """What one attempt at a call has been charged and has had computed."""

    counter: Counter
    request_id: str
    paid_before: Rows
    paid: Rows
    computed: Rows = Rows()

    def add_computed(self, rows: Rows) -> None:
        """Settles rows: they have been computed."""
        self.computed += rows

    def refund(self) -> None:
        """Gives back what has not been computed. After the whole call has been computed, nothing."""
        due = self.computed.at_least(self.paid_before)
        self.counter.used -= self.paid - due
        self.paid = due
        if self.request_id:
            self.counter.paid[self.request_id] = due


@dataclass
class Counter:
    """The rows that have been computed, or are being computed, under one served name."""

    used: Rows = Rows()
    paid: OrderedDict[str, Rows] = field(default_factory=OrderedDict)

    def charge(self, request_id: str, rows: Rows) -> Charge:
        """Counts a call's rows, less what an earlier attempt under its request id has paid."""
        before = self.paid.get(request_id, Rows()) if request_id else Rows()
        paid = rows.at_least(before)
        self.used += paid - before
        if request_id:
            self.paid[request_id] = paid
            if len(self.paid) > _REMEMBERED:
                self.paid.popitem(last=False)
        return Charge(self, request_id, before, paid)
