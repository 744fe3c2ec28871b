"""SimPy resources that count their seconds of service: stations, which serve jobs in turn, and wires, which carry bytes.

A station never serves more jobs at once than it has places, and never rests while a job waits.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeAlias

import simpy
from simpy.resources.resource import Release, Request

Steps: TypeAlias = Generator[simpy.Event, Any, None]
"""A part of a process: yields the events that it waits for."""


class Station(simpy.Resource):
    """Places with one line in front of them: first come, first served.

    Args:
        env: The simulation.
        capacity: Jobs that are served at once.
    """

    def __init__(self, env: simpy.Environment, capacity: int = 1) -> None:
        super().__init__(env, capacity)
        self._ended_s = 0.0

    @property
    def served_s(self) -> float:
        """Seconds of service up to now, summed over all places."""
        now_s = self._env.now
        return self._ended_s + sum(now_s - request.usage_since for request in self.users if request.usage_since is not None)

    def serve(self, service_s: float) -> Steps:
        """Waits for a place and keeps it for the time of the service."""
        place = self.request()
        if not place.triggered:
            yield place
        yield self._env.timeout(service_s)
        yield self.release(place)

    def request_within(self, patience_s: float) -> Generator[simpy.Event, Any, Request]:
        """Waits for a place; after ``patience_s`` it moves to the front of the line.

        Returns:
            The place, which the caller must release.
        """
        place = self.request()
        if not place.triggered:
            yield place | self._env.timeout(patience_s)
        if not place.triggered:
            self.queue.remove(place)
            self.queue.insert(0, place)
            yield place
        return place

    def _do_get(self, event: Release) -> None:
        """Passes the place on, so that the next job begins before the process that releases it continues."""
        since_s = event.request.usage_since
        assert since_s is not None, "released a place that was never granted"
        self._ended_s += self._env.now - since_s
        self.users.remove(event.request)
        self._trigger_put(None)
        event.succeed()


class Wire:
    """One direction of a network: bytes arrive in the order in which they are sent.

    The end of each transfer is known when it is sent, so it takes one event in place of the three of a `Station`, and the study
    a fifth less time.

    Args:
        env: The simulation.
    """

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._taken_s = 0.0
        self._free_at_s = 0.0

    @property
    def served_s(self) -> float:
        """Seconds of transfers up to now."""
        return self._taken_s - max(0.0, self._free_at_s - self._env.now)

    def carry(self, transfer_s: float) -> simpy.Timeout:
        """Sends bytes after those that wait already; the event is their arrival."""
        now_s = self._env.now
        self._free_at_s = max(now_s, self._free_at_s) + transfer_s
        self._taken_s += transfer_s
        return self._env.timeout(self._free_at_s - now_s)
