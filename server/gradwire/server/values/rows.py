"""Counts of forward and backward rows, kept apart as in AttackBench (arXiv 2404.19460)."""

from __future__ import annotations

from typing import NamedTuple


class Rows(NamedTuple):
    """Counts of forward and of backward rows. A tuple, because each call creates many and tuples are fast."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Rows) -> Rows:  # type: ignore[override]
        return Rows(self.forward + other.forward, self.backward + other.backward)

    def __sub__(self, other: Rows) -> Rows:
        return Rows(self.forward - other.forward, self.backward - other.backward)

    def __bool__(self) -> bool:
        return bool(self.forward or self.backward)

    def within(self, other: Rows) -> bool:
        """True if both counts are at most those of ``other``."""
        return self.forward <= other.forward and self.backward <= other.backward

    def beyond(self, other: Rows) -> Rows:
        """Returns the rows that exceed ``other``, for forward and backward each."""
        return Rows(max(0, self.forward - other.forward), max(0, self.backward - other.backward))

    def at_most(self, other: Rows) -> Rows:
        """Returns the smaller count of the two, for forward and backward each."""
        return Rows(min(self.forward, other.forward), min(self.backward, other.backward))

    def at_least(self, other: Rows) -> Rows:
        """Returns the larger count of the two, for forward and backward each."""
        return Rows(max(self.forward, other.forward), max(self.backward, other.backward))
