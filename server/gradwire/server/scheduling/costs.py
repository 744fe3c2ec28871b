"""How long row blocks took, so that a quick one can be computed where it is.

The way of a block to the runner's thread and back costs more than a small model's row (0.20 ms of a predict and 0.25 ms
of a loss gradient of one row, two shared x86-64 cores, 21 November 2026). A call that is alone is therefore computed on
the event loop's thread if its like was quick the last time. Until it is done the loop does nothing else; another
call's rows would have waited for the device just as long, but its bytes, health checks and timers wait too, which is
why the bound is small, and why models that may wait for something else than this device are never computed there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gradwire.server.scheduling.work import Work

_QUICK_S = 0.010
"""32 rows of a small CNN took 2 to 6 ms on the machine above, which is where a local estimator is hardest to match."""

_REMEMBERED = 4096


class _Time(NamedTuple):
    rows: int
    seconds: float


class Costs:
    """The last times of each kind of computation, of as many rows as there were: for each power of two, the less of two."""

    def __init__(self) -> None:
        # By model and kind: by the rows' bit length, the last two.
        self._last: OrderedDict[Hashable, dict[int, tuple[_Time, ...]]] = OrderedDict()

    def is_quick(self, work: Work) -> bool:
        """Whether a block will be quick, as far as its like is known. What is not known is not."""
        like = work.likeness
        if like is None or like.may_wait:
            return False
        last = self._last.get((work.ticket.model, like.kind))
        return last is not None and _estimate_s(last, work.size) < _QUICK_S

    def remember(self, batch: Sequence[Work], seconds: float) -> None:
        """Takes note of how long blocks that are alike took together."""
        like = batch[0].likeness
        if like is None:
            return
        key = (batch[0].ticket.model, like.kind)
        rows = sum(work.size for work in batch)
        known = self._last.setdefault(key, {})
        known[rows.bit_length()] = (*known.get(rows.bit_length(), ())[-1:], _Time(rows, seconds))
        self._last.move_to_end(key)
        if len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)


def _estimate_s(last: Mapping[int, Sequence[_Time]], rows: int) -> float:
    """From fewer rows in proportion, from more rows what those took. One slow time says that somebody else had the processor."""
    length = rows.bit_length()
    fewer = [known for known in last if known <= length]
    return min(time.seconds * max(1.0, rows / time.rows) for time in last[max(fewer) if fewer else min(last)])
