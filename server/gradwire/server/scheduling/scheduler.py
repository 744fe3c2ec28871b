"""Who computes next: a queue for each model and client, served in turn.

The loop's side admits calls, a bounded number of them, and queues their row blocks; the runner's side takes what comes
next. Each client of a model has a queue of its own and the queues take turns, so that a client that streams a million
rows does not hold up one that asks for a single row. Whose turn it is takes along what other calls wait for of the same
computation, in turn again. Nothing waits for company.

A call may hold a model for itself (a fit): then nobody else's work on that model, or on one that is made of it, is taken
until the call ends. A call whose rows come in several blocks, and has begun, is let to its end before: all its rows are
answered by the same weights.

The models of a process share its device, on which one thread at a time computes: whoever has taken a batch has it until the
batch is `finished`. A model with devices of its own (its replicas) has as many batches under way as it has places.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from weakref import WeakValueDictionary

from gradwire.server.errors import QueueFull
from gradwire.server.scheduling.costs import Costs
from gradwire.server.scheduling.merging import Computed
from gradwire.server.scheduling.retry_hints import Refusals
from gradwire.server.scheduling.tickets import Hold, Ticket
from gradwire.server.scheduling.work import Work
from gradwire.server.telemetry.batches import Tally
from gradwire.server.telemetry.counts import family

_LONG_AGO_S = 0.02
"""Since another caller's last call, after which a call is alone."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Work that was taken together.

    Attributes:
        works: At least one block.
        since_s: When it was taken, by ``time.monotonic()``.
    """

    works: list[Work]
    since_s: float

    @property
    def model(self) -> Hashable:
        return self.works[0].ticket.model


class Scheduler:
    """Bounded, fair queues between the loop's thread and the runner's.

    Args:
        max_calls: Calls admitted at the same time, running and waiting.
        parts: For models that are made of others, all that they are made of.
        places: For models that have devices of their own, how many batches may be under way on them at the same time.

    Attributes:
        tally: What has been computed.
    """

    def __init__(
        self,
        max_calls: int,
        parts: Mapping[str, Iterable[Hashable]] | None = None,
        places: Mapping[str, int] | None = None,
    ) -> None:
        self.tally = Tally()
        self._costs = Costs()
        self._refusals = Refusals()
        self._max_calls = max_calls
        self._parts: dict[Hashable, tuple[Hashable, ...]] = {model: tuple(its) for model, its in (parts or {}).items()}
        self._places: dict[Hashable, int] = dict((places or {}).items())
        self._calls = 0
        self._ready = threading.Condition(threading.Lock())
        self._queues: OrderedDict[tuple[Hashable, Hashable], deque[Work]] = OrderedDict()
        self._holders: dict[Hashable, Ticket] = {}
        # A hold lives as long as a ticket has it or waits for it.
        self._holds: WeakValueDictionary[Hashable, Hold] = WeakValueDictionary()
        # The calls of several blocks that have begun and not ended.
        self._begun: set[Ticket] = set()
        self._batches: list[Batch] = []
        # Of them, those on the device that models share: none or one.
        self._shared = 0
        self._closed = False
        # Who made the last call of one block, and when: client, operation and stream.
        self._last: tuple[tuple[Hashable, str, int], float] = (("", "", 0), 0.0)

    @property
    def calls(self) -> int:
        """Calls admitted now."""
        return self._calls

    @property
    def under_way(self) -> Batch | None:
        """What has been computed for longest and is not finished; None while nothing is computed."""
        with self._ready:
            return self._batches[0] if self._batches else None

    def places(self, model: Hashable) -> int:
        """How many batches of a model may be under way at the same time."""
        return self._places.get(model, 1)

    def waiting(self) -> dict[str, int]:
        """By model, how many calls wait for the device; clones count for the model that they come from."""
        with self._ready:
            tickets = {work.ticket for queue in self._queues.values() for work in queue}
        return dict(Counter(family(ticket.model) for ticket in tickets))

    # The loop's side.

    def admit(self, model: Hashable, client: Hashable) -> Ticket:
        """Lets a call in. Raises QueueFull."""
        if self._calls >= self._max_calls:
            text = f"{self._calls} calls are running or waiting, as many as max_calls allows; try again"
            raise QueueFull(text, self._refusals.hint_s(client, time.monotonic()))
        self._calls += 1
        return Ticket(self, model, client)

    async def hold(self, ticket: Ticket) -> None:
        """Waits until the ticket's call has its model for itself; it keeps it until it ends."""
        hold = self._holds.setdefault(ticket.model, Hold())
        await hold.acquire()
        ticket.held = hold
        with self._ready:
            self._holders[ticket.model] = ticket

    def put(self, work: Work) -> None:
        """Queues work of an admitted call."""
        key = (work.ticket.model, work.ticket.client)
        work.queued_s = time.monotonic()
        with self._ready:
            work.ticket.waiting.add(work)
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = deque()
            queue.append(work)
            self._ready.notify()

    def withdraw(self, ticket: Ticket) -> bool:
        """Takes what a call has in the queue out of it; whether nothing of it is computed now either."""
        with self._ready:
            self._withdraw(ticket)
            return not any(work.ticket is ticket for batch in self._batches for work in batch.works)

    def leave(self, ticket: Ticket) -> None:
        """Ends a call; what it has in the queue is not computed any more."""
        self._calls -= 1
        with self._ready:
            self._withdraw(ticket)
            if ticket.begun:
                self._begun.discard(ticket)
                if self._holders:
                    self._ready.notify_all()
            if ticket.held is None:
                return
            del self._holders[ticket.model]
            self._ready.notify_all()
        ticket.held.release()
        ticket.held = None

    def take_alone(self, work: Work, stream: object) -> Batch | None:
        """Takes work past the queues if it is quick and its call alone; None if it is not.

        Alone means more than that no other call is there: those of busy clients would be computed one by one, each before
        the next one's bytes are read, and never together. The call before must have been this caller's, or long ago.
        """
        caller, now_s = (work.ticket.client, work.function.__name__, id(stream)), time.monotonic()
        (client, operation, _), last_s = self._last
        same = caller == self._last[0] or (client == caller[0] and operation != caller[1])
        self._last = caller, now_s
        if self._calls > 1 or not (same or now_s - last_s > _LONG_AGO_S):
            return None
        with self._ready:
            if self._shared or self._queues or not self._costs.is_quick(work):
                return None
            self.tally.waited(work.ticket.model, 0.0)
            return self._begin([work])

    # The runner's side.

    def take(self) -> Batch | None:
        """Waits for work and takes what can be computed as one; None once the scheduler is closed and empty."""
        with self._ready:
            while True:
                while not (works := self._next()):
                    if self._closed and not self._batches:
                        return None
                    self._ready.wait()
                self._take_out(works)
                # From here on it is computed: who cancels it later is charged.
                works = [work for work in works if not work.done.cancelled()]
                if works:
                    break
            batch = self._begin(works)
            for work in works:
                self.tally.waited(work.ticket.model, batch.since_s - work.queued_s)
                if work.one_of_several and work.likeness is not None and not work.ticket.begun:
                    work.ticket.begun = True
                    self._begun.add(work.ticket)
            return batch

    def _take_out(self, works: Iterable[Work]) -> None:
        """Out of their queues, which have had their turn."""
        for work in works:
            key = (work.ticket.model, work.ticket.client)
            queue = self._queues[key]
            queue.remove(work)
            work.ticket.waiting.discard(work)
            if queue:
                self._queues.move_to_end(key)
            else:
                del self._queues[key]

    def finished(self, batch: Batch, computed: Computed) -> None:
        """Gives back the place that a batch had."""
        with self._ready:
            self._batches.remove(batch)
            self._shared -= batch.model not in self._places
            self._trace(batch, computed)
            if computed.seconds:
                self._costs.remember([outcome.work for outcome in computed.outcomes], computed.seconds)
            self._count(computed)
            # A thread that wakes for nothing takes the interpreter from the one that answers.
            if self._closed:
                self._ready.notify_all()
            elif self._queues:
                self._ready.notify()

    def close(self) -> None:
        """Lets the runner end when nothing is left to do."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _withdraw(self, ticket: Ticket) -> None:
        if not ticket.waiting:
            return
        key = (ticket.model, ticket.client)
        kept = deque(work for work in self._queues[key] if work.ticket is not ticket)
        if kept:
            self._queues[key] = kept
        else:
            del self._queues[key]
        ticket.waiting.clear()

    def _begin(self, works: list[Work]) -> Batch:
        batch = Batch(works, time.monotonic())
        self._batches.append(batch)
        self._shared += batch.model not in self._places
        return batch

    def _next(self) -> list[Work]:
        """What is to be computed next, still in its queues."""
        for (model, _), queue in self._queues.items():
            if self._is_full(model):
                continue
            holder = self._holder(model)
            if holder is None:
                return self._alike(queue)
            barred = self._touches(holder.model, self._begun - {holder})
            free = not barred and not self._touches(holder.model, (w.ticket for batch in self._batches for w in batch.works))
            work = next((work for work in queue if _may_go(work, holder, barred, free)), None)
            if work is not None:
                return [work]
        return []

    def _is_full(self, model: Hashable) -> bool:
        places = self._places.get(model)
        return self._shared > 0 if places is None else sum(batch.model == model for batch in self._batches) >= places

    def _touches(self, model: Hashable, tickets: Iterable[Ticket]) -> bool:
        """Whether one of these calls is about the model, or about something that is made of it."""
        return any(model in (ticket.model, *self._parts.get(ticket.model, ())) for ticket in tickets)

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

    def _trace(self, batch: Batch, computed: Computed) -> None:
        traced = [outcome.work for outcome in computed.outcomes if outcome.work.ticket.trace is not None]
        if not traced:
            return
        taken_s = batch.since_s
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


def _may_go(work: Work, holder: Ticket, barred: bool, free: bool) -> bool:
    """Whether work goes before or as what has the model for itself.

    What bars the holder, calls that have begun, goes on. It may take its time: meanwhile so does what is answered by one block.
    """
    if work.ticket is holder:
        return free
    return work.ticket.begun or (barred and not work.one_of_several)
