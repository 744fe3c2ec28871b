"""Measured durations of row blocks, by which a quick one is computed on the event loop's thread.

Handing a block to the runner's thread and back costs more than a small model's row (0.20 ms of a predict and 0.25 ms
of a loss gradient of one row, two shared x86-64 cores, 21 November 2026). A call that is alone is therefore computed on
the event loop's thread if blocks of its kind were quick before. The loop does nothing else meanwhile: another call's rows
would have waited for the device just as long, but its bytes, health checks and timers wait too. So the bound is small, and
models that may wait for something else than this device are never computed there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from gradwire.server.scheduling.work import Work

_QUICK_S = 0.010
"""32 rows of a small CNN took 2 to 6 ms on the machine above, which is where a server is furthest behind a local estimator."""

_REMEMBERED = 4096


class _Time(NamedTuple):
    rows: int
    seconds: float


class Costs:
    """Last two durations of each kind of computation, for each power of two of rows."""

    def __init__(self) -> None:
        # By model and kind: by the rows' bit length, the last two.
        self._last: OrderedDict[Hashable, dict[int, tuple[_Time, ...]]] = OrderedDict()

    def is_quick(self, work: Work) -> bool:
        """Returns True if blocks of this kind took under 10 ms lately; False if none was seen."""
        key = work.key
        if key is None or key.may_wait:
            return False
        last = self._last.get((work.call.model, key.kind))
        return last is not None and _estimate_s(last, work.size) < _QUICK_S

    def remember(self, batch: Sequence[Work], seconds: float) -> None:
        """Records the duration of a batch."""
        of = batch[0].key
        if of is None:
            return
        key = (batch[0].call.model, of.kind)
        rows = sum(work.size for work in batch)
        known = self._last.setdefault(key, {})
        known[rows.bit_length()] = (*known.get(rows.bit_length(), ())[-1:], _Time(rows, seconds))
        self._last.move_to_end(key)
        if len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)


def _estimate_s(last: Mapping[int, Sequence[_Time]], rows: int) -> float:
    """Estimates a duration: from fewer rows in proportion, from more rows as measured.

    The smaller of two durations counts, because a single slow one may only mean that the processor was busy.
    """
    length = rows.bit_length()
    fewer = [known for known in last if known <= length]
    return min(time.seconds * max(1.0, rows / time.rows) for time in last[max(fewer) if fewer else min(last)])
