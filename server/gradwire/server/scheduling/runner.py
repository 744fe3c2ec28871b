"""Threads that compute batches; only quick blocks of a call that is alone are computed elsewhere (see `costs`).

Each thread takes the scheduler's next batch, computes it (see `merging`), and hands the results to the event loop's thread:
one wake-up for all of them. Meanwhile the loop reads, and what it queues becomes the next batch. One device needs one
thread; replicas need one thread for each batch that may be under way.
"""

from __future__ import annotations

import asyncio
import threading

from gradwire.server.scheduling.merging import compute
from gradwire.server.scheduling.scheduler import Scheduler


class Runner:
    """Runs a scheduler's work.

    Args:
        scheduler: Source of the work.
        loop: The event loop that waits for the results.
        threads: Number of batches that may be under way.
    """

    def __init__(self, scheduler: Scheduler, loop: asyncio.AbstractEventLoop, threads: int = 1) -> None:
        self._scheduler = scheduler
        self._loop = loop
        self._threads = [threading.Thread(target=self._run, name="gradwire-runner", daemon=True) for _ in range(threads)]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Waits for the queued work and ends the threads."""
        self._scheduler.close()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (batch := self._scheduler.take()) is not None:
            computed = compute(batch.works)
            self._scheduler.finished(batch, computed)
            try:
                self._loop.call_soon_threadsafe(computed.deliver)
            except RuntimeError:  # the loop is closed, and no call waits any more
                return
            # Otherwise the last batch would stay in memory until the next one.
            del batch, computed
