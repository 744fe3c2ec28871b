"""Rows, counted as AttackBench does (arXiv 2404.19460): forward and backward apart."""

from __future__ import annotations

from typing import NamedTuple


class Rows(NamedTuple):
    """Rows that went forward, and rows that gradients came back for. Many are made for each call, which tuples are quick at."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Rows) -> Rows:  # type: ignore[override]
        return Rows(self.forward + other.forward, self.backward + other.backward)

    def __sub__(self, other: Rows) -> Rows:
        return Rows(self.forward - other.forward, self.backward - other.backward)

    def __bool__(self) -> bool:
        return bool(self.forward or self.backward)

    def within(self, other: Rows) -> bool:
        """Whether there are no more of them than of the others, forward and backward each."""
        return self.forward <= other.forward and self.backward <= other.backward

    def beyond(self, other: Rows) -> Rows:
        """What the others do not cover, forward and backward each."""
        return Rows(max(0, self.forward - other.forward), max(0, self.backward - other.backward))

    def at_most(self, other: Rows) -> Rows:
        """The smaller of the two, forward and backward each."""
        return Rows(min(self.forward, other.forward), min(self.backward, other.backward))

    def at_least(self, other: Rows) -> Rows:
        """The larger of the two, forward and backward each."""
        return Rows(max(self.forward, other.forward), max(self.backward, other.backward))
