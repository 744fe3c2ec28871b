"""How long row blocks took, so that a quick one can be computed where it is.

The way of a block to the runner's thread and back costs more than a small model's row (0.20 ms of a predict and 0.25 ms
of a loss gradient of one row, two shared x86-64 cores, 21 November 2026). A call that is alone is therefore computed on
the event loop's thread if the same block was quick the last time. Until it is done the loop does nothing else; another
call's rows would have waited for the device just as long, but its bytes, health checks and timers wait too, which is
why the bound is small, and why models that may wait for something else than this device are never computed there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradwire.server.scheduler import Work

_QUICK_S = 0.010
"""32 rows of a small CNN took 2 to 6 ms on the machine above, which is where a local estimator is hardest to match."""

_REMEMBERED = 4096


class Costs:
    """The last time of each kind of block: of a model, an operation, its options, and its size in bytes."""

    def __init__(self) -> None:
        self._seconds: OrderedDict[Hashable, float] = OrderedDict()

    def is_quick(self, model: Hashable, work: Work) -> bool:
        """Whether a block of this kind was computed before, and was quick the last time."""
        return self._seconds.get(_kind(model, work), _QUICK_S) < _QUICK_S

    def remember(self, model: Hashable, work: Work) -> None:
        """Takes note of a block that has been computed; of one that has not, nothing."""
        if not work.seconds:
            return
        kind = _kind(model, work)
        self._seconds[kind] = work.seconds
        self._seconds.move_to_end(kind)
        if len(self._seconds) > _REMEMBERED:
            self._seconds.popitem(last=False)


def _kind(model: Hashable, work: Work) -> Hashable:
    """Names and sizes only, so that nothing is kept alive by being remembered."""
    options = ((name, value if isinstance(value, (str, int)) else value is None) for name, value in work.options.items())
    sizes = ((name, array.nbytes) for name, array in work.rows.items())
    return model, getattr(work.function, "__name__", ""), *options, *sizes
