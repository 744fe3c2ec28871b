"""The thread that computes, but for what is quick and alone (see `costs`).

It takes what the scheduler says comes next, computes it, and hands the results to the loop's thread: one wake-up for
all that was computed together.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from gradwire.server.scheduler import Scheduler, Work


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
        while (taken := self._scheduler.take()) is not None:
            # What has been cancelled since it was queued is not computed.
            with self._scheduler.device:
                results = [_computed(work) for work in taken if not work.done.cancelled()]
            try:
                self._loop.call_soon_threadsafe(_deliver, results)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            # Otherwise the last batch would stay in memory until the next one comes.
            del taken, results


def _computed(work: Work) -> tuple[Work, Any, Exception | None]:
    try:
        return work, work.compute(), None
    except Exception as e:
        return work, None, e


def _deliver(results: list[tuple[Work, Any, Exception | None]]) -> None:
    for work, result, error in results:
        if work.done.done():
            continue
        if error is None:
            work.done.set_result(result)
        else:
            work.done.set_exception(error)
