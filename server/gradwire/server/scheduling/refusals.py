"""How long callers who are refused are told to stay away.

To refuse costs the event loop half a millisecond, more than a row of a small model. Thousands of callers who come back twenty times
a second would have the server do nothing else (a model of 10,000 clients at one server: 208 calls/s in place of 2,270). So they are
told to stay away for as long as makes some hundred of them come back in a second, however many they are.
"""

from __future__ import annotations

_A_SECOND = 100.0
"""Refusals that a server can well afford."""
_LEAST_S, _MOST_S = 0.05, 30.0
_WINDOW_S = 0.5


class Refusals:
    """What is known of them: as many as come in a second, times how long they were told to stay away, is how many they are."""

    def __init__(self) -> None:
        self._hint_s = _LEAST_S
        self._since_s = float("-inf")
        self._count = 0

    def hint_s(self, now_s: float) -> float:
        """One more is refused, at this time by any steady clock; how long it is to stay away."""
        passed_s = now_s - self._since_s
        if passed_s >= _WINDOW_S:
            # After a long pause they are those of long ago, spread over it: few a second.
            a_second = self._count / passed_s
            self._hint_s = min(_MOST_S, max(_LEAST_S, self._hint_s * a_second / _A_SECOND))
            self._since_s, self._count = now_s, 0
        self._count += 1
        return self._hint_s
