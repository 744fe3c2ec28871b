"""Units of work: an admitted call, its row blocks, and the batch key by which blocks of several calls merge.

Blocks with equal batch keys are the same computation on other rows. Where rows do not affect each other (`BatchKey.separable`),
such blocks can be computed as one batch, or in pieces, and the answers do not differ (see `merging`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from gradwire.backends.backend import Array
from gradwire.backends.estimator import Estimator


class Trace(Protocol):
    """Spans of a call, as far as the scheduler records into them."""

    def computed(self, operation: str, queued_s: float, taken_s: float, blocks: int, rows: int) -> None:
        """Records that a row block has been computed."""


class Queues(Protocol):
    """The scheduler, as far as a call sees it."""

    def put(self, work: Work) -> None:
        """Queues work of an admitted call."""

    def leave(self, call: Call) -> None:
        """Ends a call."""


class ExclusiveLock(asyncio.Lock):
    """Lock on a model for one call at a time, a fit for example."""


@dataclass(frozen=True, eq=False)
class BatchKey:
    """Properties that all row blocks of a call share, and by which blocks of several calls merge.

    Attributes:
        estimator: Computes them.
        kind: What is computed of a row: operation, options, shapes and dtypes. It holds names, sizes and digests only, so
            that remembering it keeps no array alive.
        row_shape: Shape of a row of the first argument.
        separable: Whether rows do not affect each other, and may be computed beside those of other calls.
        may_wait: Whether the computation may wait for something else than the device.
        max_rows: Most rows to compute at once.
    """

    estimator: Estimator
    kind: Hashable
    row_shape: tuple[int, ...]
    separable: bool
    may_wait: bool
    max_rows: int


@dataclass(eq=False)
class Work:
    """One row block of one call, or another computation on the device (then without a batch key).

    Attributes:
        function: Computes the block.
        rows: Arguments that hold one entry a row.
        options: The other arguments.
        done: Future of the result; belongs to the loop's thread.
        call: The call that the block belongs to.
        size: Number of rows; 0 for work that is no row block.
        key: Batch key of the block.
        one_of_several: Whether the call may have more blocks.
        queued_s: Time of queueing by ``time.monotonic()``; 0 if the block was never queued.
    """

    function: Callable[..., Any]
    rows: Mapping[str, Array]
    options: Mapping[str, Any]
    done: asyncio.Future[Any]
    call: Call
    size: int
    key: BatchKey | None = None
    one_of_several: bool = False
    queued_s: float = 0.0


@dataclass(eq=False)
class Call:
    """One admitted call. As a context manager it leaves the scheduler at its end, and its queued work with it.

    Attributes:
        queues: The scheduler that admitted it.
        model: Name of the loaded model.
        client: Client whose queue it uses.
        family: Model that metrics count the call under; a clone counts for its origin.
        waiting: Its queued work.
        lock: Exclusive lock on the model while the call has it.
        begun: Whether the first of several row blocks has been taken: the others are answered by the same weights.
        trace: Spans of the call; None if it is not traced.
        left: Whether it has left the scheduler.
    """

    queues: Queues
    model: Hashable
    client: Hashable
    family: str
    waiting: set[Work] = field(default_factory=set)
    lock: ExclusiveLock | None = None
    begun: bool = False
    trace: Trace | None = None
    left: bool = False

    async def run(self, function: Callable[..., Any], rows: Mapping[str, Array] | None = None, **options: Any) -> Any:
        """Computes something on a runner's thread; raises what ``function`` raises.

        Work that is cancelled while it waits is not computed.
        """
        return await self.submit(function, rows or {}, options)

    def submit(
        self, function: Callable[..., Any], rows: Mapping[str, Array], options: Mapping[str, Any], key: BatchKey | None = None
    ) -> asyncio.Future[Any]:
        """Queues one of several row blocks, or without a key any computation on the device, and returns its future."""
        size = 0 if key is None else len(next(iter(rows.values())))
        done = asyncio.get_running_loop().create_future()
        work = Work(function, rows, options, done, self, size, key, one_of_several=True)
        self.queues.put(work)
        return done

    def leave(self) -> None:
        """Leaves the scheduler, with queued work and lock: at the end of the ``with`` block, or before."""
        if not self.left:
            self.left = True
            self.queues.leave(self)

    def __enter__(self) -> Call:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()
