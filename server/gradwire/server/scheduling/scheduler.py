"""Fair scheduler: a queue for each model and client, served round robin.

The event loop's side admits a bounded number of calls and queues their row blocks; the runner's side takes the next ones.
Each client of a model has its own queue, so that a client that streams a million rows does not delay one that asks for a
single row. The queue whose turn it is also takes compatible blocks from other queues, round robin. There is no batching timer.

A call may lock a model exclusively (a fit): no other work on that model, or on one made of it, is taken until the call
ends. A call of several row blocks that has already begun finishes first: all its rows are answered by the same weights.

The models of a process share its device, on which one thread at a time computes, until it says that the batch is `finished`.
A model with devices of its own (its replicas) may have as many batches under way as it has replica slots.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from gradwire.backends.backend import Array
from gradwire.server.errors import QueueFull
from gradwire.server.scheduling.costs import Costs
from gradwire.server.scheduling.merging import Computed, compute
from gradwire.server.scheduling.retry_hints import RetryHints
from gradwire.server.scheduling.work import BatchKey, Call, ExclusiveLock, Work
from gradwire.server.telemetry.batches import Tally
from gradwire.server.telemetry.counts import family

_LONG_AGO_S = 0.02
"""Time without another caller's call after which a call counts as alone."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Work that is computed together.

    Attributes:
        works: At least one block.
        since_s: Time of taking it, by ``time.monotonic()``.
    """

    works: list[Work]
    since_s: float

    @property
    def model(self) -> Hashable:
        """Model that the batch is computed on."""
        return self.works[0].call.model


class Scheduler:
    """Bounded, fair queues between the event loop's thread and the runner's.

    Args:
        max_calls: Calls admitted at the same time, running and waiting.
        parts: For each model made of others (an ensemble), all its members.
        concurrency: For each model with devices of its own, the number of batches that may be under way at the same time.

    Attributes:
        tally: Counts of batches and waits, for metrics.
    """

    def __init__(
        self,
        max_calls: int,
        parts: Mapping[str, Iterable[Hashable]] | None = None,
        concurrency: Mapping[str, int] | None = None,
    ) -> None:
        self.tally = Tally()
        self._costs = Costs()
        self._retry_hints = RetryHints()
        self._max_calls = max_calls
        self._parts: dict[Hashable, tuple[Hashable, ...]] = {model: tuple(its) for model, its in (parts or {}).items()}
        self._concurrency: dict[Hashable, int] = dict((concurrency or {}).items())
        self._calls = 0
        self._ready = threading.Condition(threading.Lock())
        self._queues: OrderedDict[tuple[Hashable, Hashable], deque[Work]] = OrderedDict()
        self._holders: dict[Hashable, Call] = {}
        # A lock lives as long as a call has it or waits for it.
        self._locks: WeakValueDictionary[Hashable, ExclusiveLock] = WeakValueDictionary()
        # Calls of several blocks that have begun and not ended.
        self._begun: set[Call] = set()
        self._batches: list[Batch] = []
        # Number of them on the device that models share: none or one.
        self._shared = 0
        self._closed = False
        # Client, operation and stream of the last call of one block, and its time.
        self._last: tuple[tuple[Hashable, str, int], float] = (("", "", 0), 0.0)

    @property
    def calls(self) -> int:
        """Number of calls admitted now."""
        return self._calls

    @property
    def under_way(self) -> Batch | None:
        """Oldest batch that is not finished; None while nothing is computed."""
        with self._ready:
            return self._batches[0] if self._batches else None

    def concurrency(self, model: Hashable) -> int:
        """Number of batches of a model that may be under way at the same time."""
        return self._concurrency.get(model, 1)

    def waiting(self) -> dict[str, int]:
        """Number of calls that wait for the device, by model; clones count for their origin."""
        with self._ready:
            calls = {work.call for queue in self._queues.values() for work in queue}
        return dict(Counter(call.family for call in calls))

    # The loop's side.

    def admit(self, model: Hashable, client: Hashable, counted_as: str | None = None) -> Call:
        """Admits a call.

        Args:
            model: Name of the loaded model.
            client: Client whose queue the call uses.
            counted_as: Model that metrics count it under; None: ``model``, or the origin of a clone.

        Raises:
            QueueFull: ``max_calls`` calls are already admitted.
        """
        if self._calls >= self._max_calls:
            text = f"{self._calls} calls are running or waiting, as many as max_calls allows; try again"
            raise QueueFull(text, self._retry_hints.hint_s(client, time.monotonic()))
        self._calls += 1
        return Call(self, model, client, family(model) if counted_as is None else counted_as)

    async def lock(self, call: Call) -> None:
        """Waits for the exclusive lock on a call's model; the call keeps it until it ends."""
        lock = self._locks.setdefault(call.model, ExclusiveLock())
        await lock.acquire()
        call.lock = lock
        with self._ready:
            self._holders[call.model] = call

    def put(self, work: Work) -> None:
        """Queues work of an admitted call."""
        key = (work.call.model, work.call.client)
        work.queued_s = time.monotonic()
        with self._ready:
            work.call.waiting.add(work)
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = deque()
            queue.append(work)
            self._ready.notify()

    def withdraw(self, call: Call) -> bool:
        """Removes a call's queued work; returns True if none of it is being computed either."""
        with self._ready:
            self._withdraw(call)
            return not any(work.call is call for batch in self._batches for work in batch.works)

    def leave(self, call: Call) -> None:
        """Ends a call and removes its queued work."""
        self._calls -= 1
        with self._ready:
            self._withdraw(call)
            if call.begun:
                self._begun.discard(call)
                if self._holders:
                    self._ready.notify_all()
            if call.lock is None:
                return
            del self._holders[call.model]
            self._ready.notify_all()
        call.lock.release()
        call.lock = None

    async def run_block(
        self,
        call: Call,
        function: Callable[..., Any],
        rows: Mapping[str, Array],
        options: Mapping[str, Any],
        key: BatchKey,
        stream: object = None,
    ) -> Any:
        """Computes the only row block of a call; raises what ``function`` raises.

        If the call is alone and the block is known to be quick, it is computed at once on this thread (see `costs`).

        Args:
            call: The call.
            function: Computes the block.
            rows: Arguments that hold one entry a row.
            options: The other arguments.
            key: Batch key of the block.
            stream: Open stream of the call, on which its client makes one call after the other.
        """
        size = len(next(iter(rows.values())))
        work = Work(function, rows, options, asyncio.get_running_loop().create_future(), call, size, key)
        batch = self._take_alone(work, stream)
        if batch is None:
            self.put(work)
            return await work.done
        computed = compute([work])
        self.finished(batch, computed)
        _, result, error = computed.outcomes[0]
        if error is not None:
            raise error
        return result

    def _take_alone(self, work: Work, stream: object) -> Batch | None:
        """Takes quick work of a call that is alone past the queues; None if it is not quick or not alone.

        Calls of busy clients would otherwise be computed one by one, each before the next one's bytes are read, and never as
        a batch. So "alone" also requires that the previous call was this caller's, or long ago.
        """
        caller, now_s = (work.call.client, work.function.__name__, id(stream)), time.monotonic()
        (client, operation, _), last_s = self._last
        same = caller == self._last[0] or (client == caller[0] and operation != caller[1])
        self._last = caller, now_s
        if self._calls > 1 or not (same or now_s - last_s > _LONG_AGO_S):
            return None
        with self._ready:
            if self._shared or self._queues or not self._costs.is_quick(work):
                return None
            self.tally.waited(work.call.family, 0.0)
            return self._begin([work])

    # The runner's side.

    def take(self) -> Batch | None:
        """Waits for work and takes the next batch; None once the scheduler is closed and empty."""
        with self._ready:
            while True:
                while not (works := self._next()):
                    if self._closed and not self._batches:
                        return None
                    self._ready.wait()
                self._take_out(works)
                # From here on it is computed: a call that is cancelled later is charged.
                works = [work for work in works if not work.done.cancelled()]
                if works:
                    break
            batch = self._begin(works)
            for work in works:
                self.tally.waited(work.call.family, batch.since_s - work.queued_s)
                if work.one_of_several and work.key is not None and not work.call.begun:
                    work.call.begun = True
                    self._begun.add(work.call)
            return batch

    def _take_out(self, works: Iterable[Work]) -> None:
        """Removes work from its queues, and moves these to the end of the line."""
        for work in works:
            key = (work.call.model, work.call.client)
            queue = self._queues[key]
            queue.remove(work)
            work.call.waiting.discard(work)
            if queue:
                self._queues.move_to_end(key)
            else:
                del self._queues[key]

    def finished(self, batch: Batch, computed: Computed) -> None:
        """Ends a batch: frees its slot and records its cost."""
        with self._ready:
            self._batches.remove(batch)
            self._shared -= batch.model not in self._concurrency
            self._trace(batch, computed)
            if computed.seconds:
                self._costs.remember([outcome.work for outcome in computed.outcomes], computed.seconds)
            self._count(computed)
            # Waking a thread without need would take the interpreter from the one that answers.
            if self._closed:
                self._ready.notify_all()
            elif self._queues:
                self._ready.notify()

    def close(self) -> None:
        """Lets the runner's threads end once the queues are empty."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _withdraw(self, call: Call) -> None:
        if not call.waiting:
            return
        key = (call.model, call.client)
        kept = deque(work for work in self._queues[key] if work.call is not call)
        if kept:
            self._queues[key] = kept
        else:
            del self._queues[key]
        call.waiting.clear()

    def _begin(self, works: list[Work]) -> Batch:
        batch = Batch(works, time.monotonic())
        self._batches.append(batch)
        self._shared += batch.model not in self._concurrency
        return batch

    def _next(self) -> list[Work]:
        """Work to be computed next, still in its queues."""
        for (model, _), queue in self._queues.items():
            if self._is_full(model):
                continue
            holder = self._holder(model)
            if holder is None:
                return self._merged(queue)
            barred = self._touches(holder.model, self._begun - {holder})
            free = not barred and not self._touches(holder.model, (w.call for batch in self._batches for w in batch.works))
            work = next((work for work in queue if _may_go(work, holder, barred, free)), None)
            if work is not None:
                return [work]
        return []

    def _is_full(self, model: Hashable) -> bool:
        places = self._concurrency.get(model)
        return self._shared > 0 if places is None else sum(batch.model == model for batch in self._batches) >= places

    def _touches(self, model: Hashable, calls: Iterable[Call]) -> bool:
        """Returns True if one of the calls uses the model, or a model made of it."""
        return any(model in (call.model, *self._parts.get(call.model, ())) for call in calls)

    def _merged(self, queue: deque[Work]) -> list[Work]:
        """First work of a queue, with blocks of the same batch key from all queues, round robin.

        Further blocks of its own call are left out: whether they are there depends on when bytes arrive, and a repeated call
        would not get the same answer twice.
        """
        first = queue[0]
        key = first.key
        if key is None or not key.separable:
            return [first]
        batch, rows, most = [first], first.size, key.max_rows
        others = [their for (model, _), their in self._queues.items() if model == first.call.model and their is not queue]
        lines = [
            (work for work in line if work.key is not None and work.key.kind == key.kind and work.call is not first.call)
            for line in (*others, queue)
        ]
        while lines and rows < most:
            longer = []
            for line in lines:
                work = next(line, None)
                if work is None or work.key is None or rows + work.size > min(most, work.key.max_rows):
                    continue
                batch.append(work)
                rows, most = rows + work.size, min(most, work.key.max_rows)
                longer.append(line)
            lines = longer
        return batch

    def _holder(self, model: Hashable) -> Call | None:
        """Call that has the exclusive lock on the model, or on a member of it."""
        if not self._holders:
            return None
        names = (model, *self._parts.get(model, ()))
        return next((self._holders[name] for name in names if name in self._holders), None)

    def _trace(self, batch: Batch, computed: Computed) -> None:
        traced = [outcome.work for outcome in computed.outcomes if outcome.work.call.trace is not None]
        if not traced:
            return
        taken_s = batch.since_s
        together = [outcome.work.size for outcome in computed.outcomes]
        for work in traced:
            assert work.call.trace is not None
            blocks, rows = (len(together), sum(together)) if computed.as_one else (1, work.size)
            work.call.trace.computed(getattr(work.function, "__name__", "step"), work.queued_s or taken_s, taken_s, blocks, rows)

    def _count(self, computed: Computed) -> None:
        outcomes = [outcome.work for outcome in computed.outcomes if outcome.work.key is not None]
        for batch in [outcomes] if computed.as_one and outcomes else [[work] for work in outcomes]:
            operation = batch[0].function.__name__
            self.tally.add(batch[0].call.family, operation, len(batch), sum(work.size for work in batch), computed.seconds)


def _may_go(work: Work, holder: Call, barred: bool, free: bool) -> bool:
    """Returns True if work may be taken while a call has, or waits behind others for, the exclusive lock.

    Calls already running continue and delay the exclusive call; single-block calls may run meanwhile.
    """
    if work.call is holder:
        return free
    return work.call.begun or (barred and not work.one_of_several)
