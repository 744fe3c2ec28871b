"""Retry hints for refused callers, scaled so that some hundred of them return each second.

Refusing a call costs the event loop half a millisecond, more than a row of a small model. Thousands of clients that retry
twenty times a second would leave it no time for anything else (a model of 10,000 clients at one server: 208 calls/s in place
of 2,270). The hint therefore grows with the number of clients, up to half a minute.

Each caller has its share of that hundred: one caller with many clients does not delay the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

_REFUSALS_PER_S = 100.0
"""Refusals of all callers together that a server can afford."""
_LEAST_S, _MOST_S = 0.05, 30.0
_WINDOW_S = 0.5
_FORGOTTEN_S = 2 * _MOST_S
"""A caller without a refusal for this long no longer takes a share."""


@dataclass
class _Caller:
    """Estimates a caller's clients: refusals per second times the current retry hint."""

    hint_s: float
    since_s: float
    count: int = 0


class RetryHints:
    """Retry hints by caller, ordered by their last refusal."""

    def __init__(self) -> None:
        self._callers: OrderedDict[Hashable, _Caller] = OrderedDict()

    def hint_s(self, caller: Hashable, now_s: float) -> float:
        """Counts one refusal and returns the retry hint for it.

        Args:
            caller: The refused caller.
            now_s: Time of the refusal, by any steady clock.

        Returns:
            Seconds that the client should wait.
        """
        known = self._callers.get(caller)
        if known is None:
            known = self._callers[caller] = _Caller(_LEAST_S, now_s)
        self._callers.move_to_end(caller)
        passed_s = now_s - known.since_s
        if passed_s >= _WINDOW_S:
            self._forget(now_s)
            share = _REFUSALS_PER_S / len(self._callers)
            known.hint_s = min(_MOST_S, max(_LEAST_S, known.hint_s * known.count / passed_s / share))
            known.since_s, known.count = now_s, 0
        known.count += 1
        return known.hint_s

    def _forget(self, now_s: float) -> None:
        while now_s - next(iter(self._callers.values())).since_s > _FORGOTTEN_S and len(self._callers) > 1:
            self._callers.popitem(last=False)
