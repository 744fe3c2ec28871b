"""How long callers who are refused are told to stay away.

To refuse costs the event loop half a millisecond, more than a row of a small model. Thousands of callers who come back twenty times
a second would have the server do nothing else (a model of 10,000 clients at one server: 208 calls/s in place of 2,270). So they are
told to stay away for as long as makes some hundred of them come back in a second, however many they are.

Each caller has its share of that hundred: one that comes with a crowd does not keep the others away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

_A_SECOND = 100.0
"""Refusals that a server can well afford, of all callers."""
_LEAST_S, _MOST_S = 0.05, 30.0
_WINDOW_S = 0.5
_FORGOTTEN_S = 2 * _MOST_S
"""Whoever was not refused for so long is not one of those who share."""


@dataclass
class _Caller:
    """As many refusals as come in a second, times how long these were told to stay away, is how many clients it has."""

    hint_s: float
    since_s: float
    count: int = 0


class Refusals:
    """What is known of them, by caller; the one that was refused last stands last."""

    def __init__(self) -> None:
        self._callers: OrderedDict[Hashable, _Caller] = OrderedDict()

    def hint_s(self, caller: Hashable, now_s: float) -> float:
        """One more is refused, at this time by any steady clock; how long it is to stay away."""
        known = self._callers.get(caller)
        if known is None:
            known = self._callers[caller] = _Caller(_LEAST_S, now_s)
        self._callers.move_to_end(caller)
        passed_s = now_s - known.since_s
        if passed_s >= _WINDOW_S:
            self._forget(now_s)
            share = _A_SECOND / len(self._callers)
            known.hint_s = min(_MOST_S, max(_LEAST_S, known.hint_s * known.count / passed_s / share))
            known.since_s, known.count = now_s, 0
        known.count += 1
        return known.hint_s

    def _forget(self, now_s: float) -> None:
        while now_s - next(iter(self._callers.values())).since_s > _FORGOTTEN_S and len(self._callers) > 1:
            self._callers.popitem(last=False)
