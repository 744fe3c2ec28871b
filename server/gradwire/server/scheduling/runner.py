"""The threads that compute, but for what is quick and alone (see `costs`).

Each takes what the scheduler says comes next, computes what was taken together as one (see `merging`), and hands the results
to the loop's thread: one wake-up for all of them. Meanwhile the loop reads, and what it queues is the next batch. One thread
is enough for one device; one that waits for replicas is needed for each batch that may be under way.
"""

from __future__ import annotations

import asyncio
import threading

from gradwire.server.scheduling.merging import compute
from gradwire.server.scheduling.scheduler import Scheduler


class Runner:
    """Runs a scheduler's work.

    Args:
        scheduler: Whose work.
        loop: The event loop that waits for the results.
        threads: How many batches may be under way.
    """

    def __init__(self, scheduler: Scheduler, loop: asyncio.AbstractEventLoop, threads: int = 1) -> None:
        self._scheduler = scheduler
        self._loop = loop
        self._threads = [threading.Thread(target=self._run, name="gradwire-runner", daemon=True) for _ in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Waits until the work that is queued has been done, and ends the threads."""
        self._scheduler.close()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (batch := self._scheduler.take()) is not None:
            computed = compute(batch.works)
            self._scheduler.finished(batch, computed)
            try:
                self._loop.call_soon_threadsafe(computed.deliver)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            # Otherwise the last batch would stay in memory until the next one comes.
            del batch, computed
