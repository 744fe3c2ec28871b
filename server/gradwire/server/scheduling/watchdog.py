"""Notices that the device does not come back.

A call into a framework that hangs cannot be taken off its thread. What can be done is to say so (health, the log, every
caller who waits), and to end the process, so that its supervisor starts another one.
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
"""For statuses and health to leave the process before it ends."""


class Watchdog:
    """A thread that looks at what is computed; the event loop may be what hangs.

    Args:
        scheduler: Whose work is watched.
        limit_s: How long one batch may be computed.
        exits: Whether the process ends when one takes longer.
        on_change: Told on the loop's thread what hangs, and with None that it has come back after all.
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
                log.warning("the model has come back; calls are taken again")
                self._tell(None)
                continue
            work = under_way.works[0]
            operation = getattr(work.function, "__name__", type(work.function).__name__)
            log.critical(
                "the model does not come back",
                extra={
                    "model": work.ticket.model,
                    "operation": operation,
                    "computed_s": round(computed_s, 1),
                    "exits": self._exits,
                },
            )
            self._tell(Hung(f"{work.ticket.model!r} has computed one batch of {operation} for more than {self._limit_s:g} s"))
            if self._exits:
                self._stopped.wait(_LAST_WORDS_S)
                logging.shutdown()
                # Nothing that runs on the way out could wait for the thread that hangs.
                os._exit(EXIT_CODE)

    def _tell(self, hung: Hung | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._on_change, hung)
        except RuntimeError:  # the loop has ended
            self._stopped.set()
