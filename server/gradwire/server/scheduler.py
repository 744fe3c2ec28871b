"""Who computes next: a queue for each model and client, served in turn.

The loop's side admits calls, a bounded number of them, and queues their row blocks; the runner's side takes what comes
next. Each client of a model has a queue of its own and the queues take turns, so that a client that streams a million
rows does not hold up one that asks for a single row. A call may hold a model for itself (a fit): then nobody else's
work on that model, or on one that is made of it, is taken until the call ends.

Whoever computes holds `Scheduler.device`, so that one thread at a time is on it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from weakref import WeakValueDictionary

from gradwire.backends.backend import Array
from gradwire.backends.errors import ModelFailed
from gradwire.server.costs import Costs


class QueueFull(Exception):
    """As many calls as the server takes are waiting already."""


@dataclass(eq=False)
class Work:
    """One row block of one call.

    Attributes:
        function: Computes the block.
        rows: Arguments that hold one entry a row.
        options: The other arguments. Blocks of equal function and options could be computed as one.
        done: Where the result goes; belongs to the loop's thread.
        ticket: The call.
        seconds: How long it took to compute; 0 before.
    """

    function: Callable[..., Any]
    rows: Mapping[str, Array]
    options: Mapping[str, Any]
    done: asyncio.Future[Any]
    ticket: Ticket
    seconds: float = 0.0

    def compute(self) -> Any:
        """Computes the block, with the device held. A model that calls sys.exit() ends its call, not the server."""
        began_s = time.perf_counter()
        try:
            return self.function(**self.rows, **self.options)
        except Exception:
            raise
        except BaseException as e:
            raise ModelFailed(f"the model raised {type(e).__name__}: {e}") from e
        finally:
            self.seconds = time.perf_counter() - began_s


class Hold(asyncio.Lock):
    """A model that calls want for themselves, one after the other."""


@dataclass(eq=False)
class Ticket:
    """One admitted call. A context manager: at its end, what the call still has in the queue leaves it."""

    scheduler: Scheduler
    model: Hashable
    client: Hashable
    waiting: set[Work] = field(default_factory=set)
    held: Hold | None = None

    async def run(self, function: Callable[..., Any], rows: Mapping[str, Array] | None = None, **options: Any) -> Any:
        """Computes one row block on the runner's thread; raises what ``function`` raises.

        A block that is cancelled while it waits is not computed.
        """
        return await self.submit(function, rows or {}, options)

    async def run_alone(self, function: Callable[..., Any], rows: Mapping[str, Array], options: Mapping[str, Any]) -> Any:
        """As `run`, but on this thread if no other call is there and the block is known to be quick (see `costs`)."""
        scheduler = self.scheduler
        work = Work(function, rows, options, asyncio.get_running_loop().create_future(), self)
        if scheduler.calls == 1 and scheduler.costs.is_quick(self.model, work) and scheduler.device.acquire(blocking=False):
            try:
                result = work.compute()
            finally:
                scheduler.device.release()
        else:
            scheduler._put(work)
            result = await work.done
        # Not of failures: what callers ask for in vain is nothing to remember.
        scheduler.costs.remember(self.model, work)
        return result

    def submit(self, function: Callable[..., Any], rows: Mapping[str, Array], options: Mapping[str, Any]) -> asyncio.Future[Any]:
        """Queues one row block and returns its future."""
        work = Work(function, rows, options, asyncio.get_running_loop().create_future(), self)
        self.scheduler._put(work)
        return work.done

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.scheduler._leave(self)


class Scheduler:
    """Bounded, fair queues between the loop's thread and the runner's.

    Args:
        max_calls: Calls admitted at the same time, running and waiting.
        parts: For models that are made of others, all that they are made of.

    Attributes:
        device: Held by the thread that computes.
        costs: How long blocks took.
    """

    def __init__(self, max_calls: int, parts: Mapping[Any, Iterable[Hashable]] | None = None) -> None:
        self.device = threading.Lock()
        self.costs = Costs()
        self._max_calls = max_calls
        self._parts = {model: tuple(its) for model, its in (parts or {}).items()}
        self._calls = 0
        self._ready = threading.Condition(threading.Lock())
        self._queues: OrderedDict[tuple[Hashable, Hashable], deque[Work]] = OrderedDict()
        self._holders: dict[Hashable, Ticket] = {}
        # A hold lives as long as a ticket has it or waits for it.
        self._holds: WeakValueDictionary[Hashable, Hold] = WeakValueDictionary()
        self._closed = False

    @property
    def calls(self) -> int:
        """Calls admitted now."""
        return self._calls

    # The loop's side.

    def admit(self, model: Hashable, client: Hashable) -> Ticket:
        """Lets a call in. Raises QueueFull."""
        if self._calls >= self._max_calls:
            raise QueueFull(f"{self._calls} calls are running or waiting, as many as max_calls allows; try again")
        self._calls += 1
        return Ticket(self, model, client)

    async def hold(self, ticket: Ticket) -> None:
        """Waits until the ticket's call has its model for itself; it keeps it until it ends."""
        hold = self._holds.setdefault(ticket.model, Hold())
        await hold.acquire()
        ticket.held = hold
        with self._ready:
            self._holders[ticket.model] = ticket

    def _put(self, work: Work) -> None:
        key = (work.ticket.model, work.ticket.client)
        with self._ready:
            work.ticket.waiting.add(work)
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = deque()
            queue.append(work)
            self._ready.notify()

    def _leave(self, ticket: Ticket) -> None:
        self._calls -= 1
        with self._ready:
            if ticket.waiting:
                key = (ticket.model, ticket.client)
                kept = deque(work for work in self._queues[key] if work.ticket is not ticket)
                if kept:
                    self._queues[key] = kept
                else:
                    del self._queues[key]
                ticket.waiting.clear()
            if ticket.held is None:
                return
            del self._holders[ticket.model]
            self._ready.notify()
        ticket.held.release()
        ticket.held = None

    # The runner's side.

    def take(self) -> list[Work] | None:
        """Waits for work and takes what can be computed as one; None once the scheduler is closed and empty."""
        with self._ready:
            while (work := self._next()) is None:
                if self._closed:
                    return None
                self._ready.wait()
            work.ticket.waiting.discard(work)
            return [work]

    def close(self) -> None:
        """Lets the runner end when nothing is left to do."""
        with self._ready:
            self._closed = True
            self._ready.notify()

    def _holder(self, model: Hashable) -> Ticket | None:
        """The call that has the model, or something that it is made of, for itself."""
        if not self._holders:
            return None
        names = (model, *self._parts.get(model, ()))
        return next((self._holders[name] for name in names if name in self._holders), None)

    def _next(self) -> Work | None:
        for key, queue in self._queues.items():
            holder = self._holder(key[0])
            if holder is not None and queue[0].ticket is not holder:
                work = next((work for work in queue if work.ticket is holder), None)
                if work is None:
                    continue
                queue.remove(work)
            else:
                work = queue.popleft()
            if queue:
                self._queues.move_to_end(key)
            else:
                del self._queues[key]
            return work
        return None
