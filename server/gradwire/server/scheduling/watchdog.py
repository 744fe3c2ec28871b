"""Watchdog for a device that hangs.

A framework call that hangs cannot be taken off its thread. The watchdog reports it (health, the log, every waiting caller)
and ends the process, so that its supervisor starts another one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable

from gradwire.server.errors import Hung
from gradwire.server.scheduling.scheduler import Scheduler

log = logging.getLogger("gradwire.server")

EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h."""

_LAST_WORDS_S = 1.0
"""Time for statuses and health to be sent before the process ends."""


class Watchdog:
    """Thread that watches the current batch; it runs apart from the event loop, which may hang too.

    Args:
        scheduler: Scheduler whose batches are watched.
        limit_s: Longest time for one batch.
        exits: Whether the process ends when a batch takes longer.
        on_change: Called on the loop's thread with the error, and with None if the batch returns after all.
    """

    def __init__(self, scheduler: Scheduler, limit_s: float, exits: bool, on_change: Callable[[Hung | None], None]) -> None:
        self._scheduler = scheduler
        self._limit_s = limit_s
        self._exits = exits
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gradwire-watchdog", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        hung = False
        while not self._stopped.wait(min(self._limit_s / 8, 5.0)):
            under_way = self._scheduler.under_way
            computed_s = 0.0 if under_way is None else time.monotonic() - under_way.since_s
            if hung is (computed_s > self._limit_s):
                continue
            hung = not hung
            if under_way is None or not hung:
                log.warning("the model has returned; calls are accepted again")
                self._tell(None)
                continue
            work = under_way.works[0]
            operation = getattr(work.function, "__name__", type(work.function).__name__)
            log.critical(
                "the model does not return",
                extra={
                    "model": work.call.model,
                    "operation": operation,
                    "computed_s": round(computed_s, 1),
                    "exits": self._exits,
                },
            )
            self._tell(Hung(f"{work.call.model!r} has been computing one batch of {operation} for more than {self._limit_s:g} s"))
            if self._exits:
                self._stopped.wait(_LAST_WORDS_S)
                logging.shutdown()
                # An orderly exit would wait for the thread that hangs.
                os._exit(EXIT_CODE)

    def _tell(self, hung: Hung | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._on_change, hung)
        except RuntimeError:  # the loop has ended
            self._stopped.set()
