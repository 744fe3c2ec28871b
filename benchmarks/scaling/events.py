"""Time, and places where one waits for one's turn. What is due first happens
first; of what is due at once, what was planned first.

What holds: a station never serves more jobs at once than it has places, and never rests while somebody waits.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

Action: TypeAlias = Callable[[], None]


class Clock:
    """The time of a simulation, and what is to happen.

    Attributes:
        now_s: The time.
        events: How many have happened.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.events = 0
        self._due: list[tuple[float, int, Action]] = []
        self._made = 0

    def after(self, delay_s: float, action: Action) -> None:
        """Has something happen later."""
        self._made += 1
        heapq.heappush(self._due, (self.now_s + delay_s, self._made, action))

    def run(self, ended: Callable[[], bool]) -> None:
        """Lets things happen until ``ended``, which is asked after each of them, or until nothing is to happen."""
        due = self._due
        while due and not ended():
            self.now_s, _, action = heapq.heappop(due)
            self.events += 1
            action()


class Station:
    """Some places, and a line in front of them: first come, first served.

    Args:
        clock: Of the simulation.
        places: How many jobs are served at once.
    """

    def __init__(self, clock: Clock, places: int = 1) -> None:
        self.places = places
        self.taken = 0
        self._clock = clock
        self._line: deque[Action] = deque()
        # Places that were taken, times seconds, up to the last change.
        self._served_s = 0.0
        self._changed_s = 0.0

    @property
    def waiting(self) -> int:
        """Jobs in the line."""
        return len(self._line)

    @property
    def served_s(self) -> float:
        """Seconds of service up to now, of all places together."""
        return self._served_s + self.taken * (self._clock.now_s - self._changed_s)

    def serve(self, service_s: float, then: Action) -> None:
        """Serves a job of so many seconds when its turn comes, then goes on with ``then``."""

        def begin() -> None:
            self._clock.after(service_s, end)

        def end() -> None:
            self.release()
            then()

        self.acquire(begin)

    def acquire(self, then: Action, patience_s: float | None = None) -> None:
        """Gives a place when one is free; whoever got it must `release` it.

        Args:
            then: What to do with the place.
            patience_s: After so long, it is the next one's turn whoever waits; None: never.
        """
        if self.taken < self.places:
            self._note(1)
            then()
            return
        self._line.append(then)
        if patience_s is not None:
            self._clock.after(patience_s, lambda: self._hurry(then))

    def _hurry(self, waiting: Action) -> None:
        if waiting in self._line:
            self._line.remove(waiting)
            self._line.appendleft(waiting)

    def release(self) -> None:
        """Gives a place back, and so to whoever comes next."""
        if self._line:
            # One leaves, one comes: as many places as before.
            self._line.popleft()()
        else:
            self._note(-1)

    def _note(self, change: int) -> None:
        self._served_s += self.taken * (self._clock.now_s - self._changed_s)
        self._changed_s = self._clock.now_s
        self.taken += change
