"""A scheduler's work carried out, for tests of schedulers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from gradwire.server.scheduling.runner import Runner
from gradwire.server.scheduling.scheduler import Scheduler


@contextmanager
def running(scheduler: Scheduler, threads: int = 1) -> Iterator[None]:
    """Runs its work, on the running loop, as long as the context lasts."""
    runner = Runner(scheduler, asyncio.get_running_loop(), threads)
    runner.start()
    try:
        yield
    finally:
        runner.stop()


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Runs a test's coroutine, for at most twenty seconds."""
    asyncio.run(asyncio.wait_for(test(), 20))  # type: ignore[arg-type]  # it takes any awaitable
