"""An admitted call, as its servicer sees it: what it wants computed goes to the scheduler's queues through its ticket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gradwire.backends.backend import Array
from gradwire.server.scheduling.merging import compute
from gradwire.server.scheduling.work import Likeness, Work

if TYPE_CHECKING:
    from gradwire.server.scheduling.scheduler import Scheduler
    from gradwire.server.telemetry.tracing import CallTrace


class Hold(asyncio.Lock):
    """A model that calls want for themselves, one after the other."""


@dataclass(eq=False)
class Ticket:
    """One admitted call. A context manager: at its end, what the call still has in the queue leaves it.

    Attributes:
        scheduler: That admitted it.
        model: What it is about.
        client: Whose it is.
        waiting: What it has in the queue.
        held: The model, while the call has it for itself.
        begun: Whether the first of several row blocks has been taken: the others are to be answered by the same weights.
        trace: The call's spans; None where it is not traced.
    """

    scheduler: Scheduler
    model: Hashable
    client: Hashable
    waiting: set[Work] = field(default_factory=set)
    held: Hold | None = None
    begun: bool = False
    trace: CallTrace | None = None

    async def run(self, function: Callable[..., Any], rows: Mapping[str, Array] | None = None, **options: Any) -> Any:
        """Computes something on a runner's thread; raises what ``function`` raises.

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
        """Queues one of several row blocks, or without a likeness anything that needs the device, and returns its future."""
        work = Work(function, rows, options, asyncio.get_running_loop().create_future(), self, likeness, one_of_several=True)
        self.scheduler.put(work)
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
        batch = scheduler.take_alone(work, stream)
        if batch is not None:
            computed = compute([work])
            scheduler.finished(batch, computed)
            computed.deliver()
        else:
            scheduler.put(work)
        return await work.done

    def __enter__(self) -> Ticket:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.scheduler.leave(self)
