"""The thread that computes, but for what is quick and alone (see `costs`).

It takes what the scheduler says comes next, computes what was taken together as one (see `merging`), and hands the results
to the loop's thread: one wake-up for all of them. Meanwhile the loop reads, and what it queues is the next batch.
"""

from __future__ import annotations

import asyncio
import threading

from gradwire.server.merging import compute
from gradwire.server.scheduler import Scheduler


class Runner:
    """Runs a scheduler's work.

    Args:
        scheduler: Whose work.
        loop: The event loop that waits for the results.
    """

    def __init__(self, scheduler: Scheduler, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduler = scheduler
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="gradwire-runner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits until the work that is queued has been done, and ends the thread."""
        self._scheduler.close()
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._scheduler.take()) is not None:
            computed = compute(batch)
            self._scheduler.finished(computed)
            try:
                self._loop.call_soon_threadsafe(computed.deliver)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            # Otherwise the last batch would stay in memory until the next one comes.
            del batch, computed
