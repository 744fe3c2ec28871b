"""Who computes next: a queue for each model and client, served in turn.

The loop's side admits calls, a bounded number of them, and queues their row blocks; the runner's side takes what comes
next. Each client of a model has a queue of its own and the queues take turns, so that a client that streams a million
rows does not hold up one that asks for a single row. Whose turn it is takes along what other calls wait for of the same
computation, in turn again. Nothing waits for company.

A call may hold a model for itself (a fit): then nobody else's work on that model, or on one that is made of it, is taken
until the call ends.

One thread at a time computes: whoever has taken work has the device until it has `finished`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from gradwire.backends.backend import Array
from gradwire.server.batches import Tally
from gradwire.server.costs import Costs
from gradwire.server.merging import Computed, compute
from gradwire.server.observe.counts import family
from gradwire.server.work import Likeness, Work

if TYPE_CHECKING:
    from gradwire.server.observe.tracing import CallTrace

_LONG_AGO_S = 0.02
"""Since another caller's last call, after which a call is alone."""


class QueueFull(Exception):
    """As many calls as the server takes are waiting already."""


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
    trace: CallTrace | None = None

    async def run(self, function: Callable[..., Any], rows: Mapping[str, Array] | None = None, **options: Any) -> Any:
        """Computes something on the runner's thread; raises what ``function`` raises.

        What is cancelled while it waits is not computed.
        """
        return await self.submit(function, rows or {}, options)

    def submit(
        self,
        function: Callable[..., Any],
        rows: Mapping[str, Array],
        options: Mapping[str, Any],
        likeness: Likeness | None = None,
    ) -> asyncio.Future[Any]:
        """Queues one row block, or without a likeness anything that needs the device, and returns its future."""
        work = Work(function, rows, options, asyncio.get_running_loop().create_future(), self, likeness)
        self.scheduler._put(work)
        return work.done

    async def run_block(
        self,
        function: Callable[..., Any],
        rows: Mapping[str, Array],
        options: Mapping[str, Any],
        likeness: Likeness,
        stream: object = None,
    ) -> Any:
        """Computes a row block that is all of its call; raises what ``function`` raises.

        A call that is alone is computed here and now, if the block is known to be quick (see `costs`).

        Args:
            function: Computes the block.
            rows: Arguments that hold one entry a row.
            options: The other arguments.
            likeness: What the block has in common with others.
            stream: On which the client makes such calls one after the other.
        """
        scheduler = self.scheduler
        work = Work(function, rows, options, asyncio.get_running_loop().create_future(), self, likeness)
        if scheduler.take_alone(work, stream):
            computed = compute([work])
            scheduler.finished(computed)
            computed.deliver()
        else:
            scheduler._put(work)
        return await work.done

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
        tally: What has been computed.
        under_way: What is computed now, one of its blocks, and since when, by ``time.monotonic()``; None while nothing is.
    """

    def __init__(self, max_calls: int, parts: Mapping[Any, Iterable[Hashable]] | None = None) -> None:
        self.tally = Tally()
        self._costs = Costs()
        self._max_calls = max_calls
        self._parts = {model: tuple(its) for model, its in (parts or {}).items()}
        self._calls = 0
        self._ready = threading.Condition(threading.Lock())
        self._queues: OrderedDict[tuple[Hashable, Hashable], deque[Work]] = OrderedDict()
        self._holders: dict[Hashable, Ticket] = {}
        # A hold lives as long as a ticket has it or waits for it.
        self._holds: WeakValueDictionary[Hashable, Hold] = WeakValueDictionary()
        self.under_way: tuple[Work, float] | None = None
        self._closed = False
        # Who made the last call of one block, and when: client, operation and stream.
        self._last: tuple[tuple[Hashable, str, int], float] = (("", "", 0), 0.0)

    @property
    def calls(self) -> int:
        """Calls admitted now."""
        return self._calls

    def waiting(self) -> dict[str, int]:
        """By model, how many calls wait for the device; clones count for the model that they come from."""
        with self._ready:
            tickets = {work.ticket for queue in self._queues.values() for work in queue}
        return dict(Counter(family(ticket.model) for ticket in tickets))

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
        work.queued_s = time.monotonic()
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

    def take_alone(self, work: Work, stream: object) -> bool:
        """Takes work past the queues if it is quick and its call alone; says whether it did.

        Alone means more than that no other call is there: those of busy clients would be computed one by one, each before
        the next one's bytes are read, and never together. The call before must have been this caller's, or long ago.
        """
        caller, now_s = (work.ticket.client, work.function.__name__, id(stream)), time.monotonic()
        (client, operation, _), last_s = self._last
        same = caller == self._last[0] or (client == caller[0] and operation != caller[1])
        self._last = caller, now_s
        if self._calls > 1 or not (same or now_s - last_s > _LONG_AGO_S):
            return False
        with self._ready:
            if self.under_way is not None or self._queues or not self._costs.is_quick(work):
                return False
            self.under_way = work, time.monotonic()
            self.tally.waited(work.ticket.model, 0.0)
            return True

    # The runner's side.

    def take(self) -> list[Work] | None:
        """Waits for work and takes what can be computed as one; None once the scheduler is closed and empty."""
        with self._ready:
            while self.under_way is not None or not (batch := self._next()):
                if self._closed and self.under_way is None:
                    return None
                self._ready.wait()
            now_s = time.monotonic()
            self.under_way = batch[0], now_s
            for work in batch:
                self.tally.waited(work.ticket.model, now_s - work.queued_s)
                key = (work.ticket.model, work.ticket.client)
                queue = self._queues[key]
                queue.remove(work)
                work.ticket.waiting.discard(work)
                if queue:
                    self._queues.move_to_end(key)
                else:
                    del self._queues[key]
            return batch

    def finished(self, computed: Computed) -> None:
        """Gives the device back."""
        with self._ready:
            self._trace(computed)
            self.under_way = None
            if computed.seconds:
                self._costs.remember([outcome.work for outcome in computed.outcomes], computed.seconds)
            self._count(computed)
            # A thread that wakes for nothing takes the interpreter from the one that answers.
            if self._queues or self._closed:
                self._ready.notify()

    def close(self) -> None:
        """Lets the runner end when nothing is left to do."""
        with self._ready:
            self._closed = True
            self._ready.notify()

    def _next(self) -> list[Work]:
        """What is to be computed next, still in its queues."""
        for (model, _), queue in self._queues.items():
            holder = self._holder(model)
            if holder is None:
                return self._alike(queue)
            work = next((work for work in queue if work.ticket is holder), None)
            if work is not None:
                return [work]
        return []

    def _alike(self, queue: deque[Work]) -> list[Work]:
        """The first of a queue, and what waits for the same computation, in turn from all queues, as far as there is room.

        Not the blocks of its own call: those of a caller who is alone would be computed in one way or another as bytes come
        early or late, and its answer would not be the same twice.
        """
        first = queue[0]
        like = first.likeness
        if like is None or not like.separable:
            return [first]
        batch, rows, most = [first], first.size, like.max_rows
        others = [their for (model, _), their in self._queues.items() if model == first.ticket.model and their is not queue]
        lines = [
            (
                work
                for work in line
                if work.likeness is not None and work.likeness.kind == like.kind and work.ticket is not first.ticket
            )
            for line in (*others, queue)
        ]
        while lines and rows < most:
            longer = []
            for line in lines:
                work = next(line, None)
                if work is None or work.likeness is None or rows + work.size > min(most, work.likeness.max_rows):
                    continue
                batch.append(work)
                rows, most = rows + work.size, min(most, work.likeness.max_rows)
                longer.append(line)
            lines = longer
        return batch

    def _holder(self, model: Hashable) -> Ticket | None:
        """The call that has the model, or something that it is made of, for itself."""
        if not self._holders:
            return None
        names = (model, *self._parts.get(model, ()))
        return next((self._holders[name] for name in names if name in self._holders), None)

    def _trace(self, computed: Computed) -> None:
        traced = [outcome.work for outcome in computed.outcomes if outcome.work.ticket.trace is not None]
        if not traced or self.under_way is None:
            return
        taken_s = self.under_way[1]
        together = [outcome.work.size for outcome in computed.outcomes]
        for work in traced:
            assert work.ticket.trace is not None
            blocks, rows = (len(together), sum(together)) if computed.as_one else (1, work.size)
            work.ticket.trace.computed(getattr(work.function, "__name__", "step"), work.queued_s or taken_s, taken_s, blocks, rows)

    def _count(self, computed: Computed) -> None:
        outcomes = [outcome.work for outcome in computed.outcomes if outcome.work.likeness is not None]
        for batch in [outcomes] if computed.as_one and outcomes else [[work] for work in outcomes]:
            operation = batch[0].function.__name__
            self.tally.add(batch[0].ticket.model, operation, len(batch), sum(work.size for work in batch), computed.seconds)
