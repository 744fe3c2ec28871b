"""Counts of computed batches, their row blocks and rows, and of waiting times."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from gradwire.server.telemetry.counts import Histogram

ROWS_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the histogram's buckets; the last bucket has none."""


@dataclass
class Batches:
    """Batches of one operation of one model since the server's start.

    Attributes:
        batches: Computed batches.
        blocks: Row blocks in them; more than batches where blocks of several calls were merged.
        rows: Rows in them.
        seconds: Computing time of batches that did not fail.
        by_rows: Batches by number of rows: each entry counts those above the bound before and up to its own bound in
            `ROWS_BOUNDS`; the last entry counts those above all bounds.
    """

    batches: int = 0
    blocks: int = 0
    rows: int = 0
    seconds: float = 0.0
    by_rows: list[int] = field(default_factory=lambda: [0] * (len(ROWS_BOUNDS) + 1))

    def add(self, blocks: int, rows: int, seconds: float) -> None:
        """Counts one batch."""
        self.batches += 1
        self.blocks += blocks
        self.rows += rows
        self.seconds += seconds
        self.by_rows[bisect_left(ROWS_BOUNDS, rows)] += 1


class Tally:
    """Batches of a server by model and operation, and waiting times of row blocks by model."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str], Batches] = {}
        self.waits: dict[str, Histogram] = {}

    def add(self, model: str, operation: str, blocks: int, rows: int, seconds: float) -> None:
        """Counts one batch."""
        self.of.setdefault((model, operation), Batches()).add(blocks, rows, seconds)

    def waited(self, model: str, seconds: float) -> None:
        """Counts the waiting time of one row block for the device; 0 seconds if the device was free."""
        waits = self.waits.get(model)
        if waits is None:
            waits = self.waits[model] = Histogram()
        waits.add(seconds)
