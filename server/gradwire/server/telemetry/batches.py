"""What has been computed: how many batches, of how many calls' blocks and rows."""

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
        batches: Computed, in the framework or in pieces.
        blocks: In them; more than batches where blocks of several calls were computed as one.
        rows: In them.
        seconds: That they took; those that failed are not counted.
        by_rows: How many batches had at most as many rows as the bound of the same place in `ROWS_BOUNDS`, and more than
            the one before; the last place is for more than that.
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
    """The batches of a server by model and operation, and by model how long row blocks waited for the device."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str], Batches] = {}
        self.waits: dict[str, Histogram] = {}

    def add(self, model: str, operation: str, blocks: int, rows: int, seconds: float) -> None:
        """Counts one batch; that of a clone for the model that it comes from."""
        self.of.setdefault((model, operation), Batches()).add(blocks, rows, seconds)

    def waited(self, model: str, seconds: float) -> None:
        """Counts one row block that the device was given to; 0 seconds if it was free."""
        waits = self.waits.get(model)
        if waits is None:
            waits = self.waits[model] = Histogram()
        waits.add(seconds)
