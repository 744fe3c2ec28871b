"""Open streams, server side: reading, writing, and ending them with a reason.

The server waits for a stream either between calls (idle) or in the middle of one. A sweep ends those that have waited too
long, so that a client that stops sending, or stops reading, holds nothing but its socket. A stream that ends between calls,
because it is idle or old or the server drains, loses no call: the client's next call goes to a new stream.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from gradwire.server.config.limits import Limits
from gradwire.server.errors import Draining, Stalled, TimedOut
from gradwire.server.faults import fault
from gradwire.server.telemetry.counts import Traffic
from gradwire.server.telemetry.refused import REFUSALS
from gradwire.server.transport.caller_counts import CallerCounts
from gradwire.server.transport.pace import Pace
from gradwire.server.trust.identity.callers import Identity
from gradwire.server.values.principals import ANONYMOUS
from gradwire.wire.frames import CHUNK_NBYTES, Chunk, chunk_messages

if TYPE_CHECKING:
    from gradwire.server.telemetry.tracing import CallTrace

log = logging.getLogger("gradwire.server")

_AGES = (1.1, 1.3)
"""A stream's maximum age, as a multiple of the connection's, which gRPC itself spreads by a tenth; random, so that clients
do not reconnect together, and above 1, so that the next stream is on a new connection."""

DRAINING = "the server is shutting down and accepts no new calls; retry, on another server if there is one"


class OpenStream:
    """One open stream.

    Attributes:
        peer: Address of the client, as gRPC gives it.
        principal: Caller of the call under way, or of the last one.
        caller: Name that the stream counts under: the principal, or for anonymous callers the host.
        queue: Name of the queue in the scheduler: the principal, or for anonymous callers the connection.
        in_call: Whether a call is under way.
        waiting_since_s: Loop time since which the server waits for the peer; None while it does not.
        pace: Pace of the peer in the call under way.
        counted_as: Caller whose streams it counts among; empty before it is admitted.
        trace: Spans of the call under way; None if it is not traced.
        inline_nbytes: Most data in an answer's first message.
    """

    def __init__(self, context: Any, identity: Identity, limits: Limits, traffic: Traffic) -> None:
        self.peer: str = context.peer()
        self.pace = Pace(limits.min_bytes_per_s, limits.stall_timeout_s)
        self.counted_as = ""
        self.trace: CallTrace | None = None
        self._traffic = traffic
        self._max_call_s = limits.max_call_s
        self.principal = self.caller = self.queue = ""
        self._identity = identity.caller(context)
        self.in_call = False
        self.waiting_since_s: float | None = None
        self._context = context
        # A stream on this host sends chunks without messages, and is told where a call begins.
        self._write_chunk = getattr(context, "write_chunk", None)
        self._next_call = getattr(context, "next_call", context.read)
        self.inline_nbytes: int = getattr(context, "inline_nbytes", CHUNK_NBYTES)
        self._loop = asyncio.get_running_loop()
        self._old_s = _old_s(self._loop.time(), None if self.same_host else limits.max_connection_age_s)
        self._task = asyncio.current_task()
        self._reason: Exception | None = None
        self._ended = False
        self._writing = False
        self._waited_s = 0.0

    @property
    def reason(self) -> Exception | None:
        """Reason for which the server ended the stream or is about to; None if it does not."""
        return self._reason

    @property
    def same_host(self) -> bool:
        """True on a socket of this host. Such streams do not age: a new one would reach the same process."""
        return self.peer.startswith("same-host:")

    @property
    def old(self) -> bool:
        """True if the stream should be replaced by a new one after the call under way."""
        return self._loop.time() > self._old_s

    def identify(self) -> None:
        """Authenticates the caller, now. Raises Unauthenticated."""
        principal = self._identity.principal()
        if principal == self.principal:
            return
        self.principal = self.caller = self.queue = principal
        if principal == ANONYMOUS:
            self.queue = self.peer
            self.caller = self.peer.partition(":")[0] if self.same_host else self.peer.rpartition(":")[0]

    async def read(self) -> bytes | Chunk | None:
        """Reads the next message of the call under way; None once the client has closed its side. Raises Stalled."""
        message = await self.read_next()
        if message is not None:
            self.pace.waited(self._waited_s, len(message.data if isinstance(message, Chunk) else message))
        return message

    async def read_next(self) -> bytes | Chunk | None:
        """Reads a message that the client may take its time for: the next batch of a fit, for example."""
        return await self._read(self._context.read)

    async def read_call(self) -> bytes | Chunk | None:
        """Reads the first message of the next call."""
        return await self._read(self._next_call)

    async def _read(self, read: Callable[[], Awaitable[Any]]) -> bytes | Chunk | None:
        self._raise_reason()
        self.waiting_since_s = since_s = self._loop.time()
        message = await read()
        self._waited_s = self._loop.time() - since_s
        self.waiting_since_s = None
        if message is grpc.aio.EOF:
            return None
        self._traffic.received_nbytes += len(message.data if isinstance(message, Chunk) else message)
        taken: bytes | Chunk = message
        return taken

    async def write(self, message: bytes) -> None:
        """Sends a message once the client can receive it."""
        self._raise_reason()
        self.waiting_since_s = since_s = self._loop.time()
        self._writing = True
        await self._context.write(message)
        self._wrote(since_s, len(message))

    async def write_data(self, data: memoryview, begin: int = 0, head: bytes = b"") -> None:
        """Sends data as chunks. It starts at byte ``begin`` of its tensor; ``head`` is a message to send first."""
        if self._write_chunk is None:
            if head:
                await self.write(head)
            for message in chunk_messages(data, begin):
                await self.write(message)
            return
        for at in range(0, len(data), CHUNK_NBYTES):
            self._raise_reason()
            self.waiting_since_s = since_s = self._loop.time()
            self._writing = True
            await self._write_chunk(begin + at, part := data[at : at + CHUNK_NBYTES], head)
            self._wrote(since_s, len(part) + len(head))
            head = b""

    def _wrote(self, since_s: float, nbytes: int) -> None:
        self._writing = False
        self.waiting_since_s = None
        self._traffic.sent_nbytes += nbytes
        self.pace.waited(self._loop.time() - since_s, nbytes)
        if self.trace is not None:
            self.trace.wrote(since_s, nbytes)

    def call_ended(self) -> None:
        """Ends the call under way, which has been answered; a timeout in the meantime no longer matters."""
        self.in_call = False
        self.trace = None
        if not self._ended:
            self._reason = None

    def _raise_reason(self) -> None:
        """Raises the reason that `end` could not send while a write was under way."""
        if self._reason is not None and not self._ended:
            raise self._reason

    def end(self, reason: Exception | None, stuck: bool = False) -> None:
        """Ends the stream from outside its task, with an error, or without a reason normally.

        A write under way is awaited first, unless it is ``stuck``: gRPC sends no status beside it.
        """
        if self._ended or self._task is None:
            return
        self._reason = reason
        if not self._writing or stuck:
            self._ended = True
            self._task.cancel()

    def end_after(self, timeout_s: float) -> asyncio.TimerHandle | None:
        """Ends the stream with TimedOut unless the handle is cancelled in time.

        Args:
            timeout_s: The caller's timeout; 0 or less: none. The server's own limit may be shorter.
        """
        given = f"its timeout of {timeout_s:g} s"
        if self._max_call_s is not None and not 0 < timeout_s <= self._max_call_s:
            timeout_s, given = self._max_call_s, f"the {self._max_call_s:g} s of the limit max_call_s; send fewer rows at once"
        if not timeout_s > 0:
            return None
        return self._loop.call_later(timeout_s, self.end, TimedOut(f"the call took longer than {given}"))

    async def abort(self, error: Exception, idle: bool = False) -> None:
        """Ends the stream with an error from inside its task; ``idle`` if no call is under way."""
        told = fault(error)
        if told.code is grpc.StatusCode.INTERNAL:
            log.error("call failed", extra={"peer": self.peer, "reason": told.text}, exc_info=error)
        elif not idle:
            REFUSALS.take(self.peer, told, self._traffic)
        try:
            await self._context.abort(told.code, told.text, told.metadata())
        except grpc.aio.AbortError:
            raise
        except Exception:
            # No status can be sent beside a stuck write; the client sees the stream end.
            log.info("no status could be sent", extra={"peer": self.peer, "reason": told.text})

    async def ended(self) -> None:
        """Handles the cancellation of the task: sends the reason if `end` caused it."""
        if not self._ended:
            raise asyncio.CancelledError  # the client cancelled, or disconnected
        if self._reason is not None:
            await self.abort(self._reason, idle=not self.in_call)


class OpenStreams:
    """All open streams of a server.

    Args:
        limits: Limits on callers.
        identity: Authenticates callers.

    Attributes:
        draining: Whether the server is shutting down and accepts no new calls.
        refusing: Why no new calls are accepted for now; None while they are.
        traffic: Bytes and refusals, for metrics.
    """

    def __init__(self, limits: Limits, identity: Identity) -> None:
        self.identity = identity
        self.refusing: Exception | None = None
        self._limits = limits
        self._stall_timeout_s = limits.stall_timeout_s
        self._idle_timeout_s = limits.idle_timeout_s
        self._sweep_s = min(limits.stall_timeout_s, limits.idle_timeout_s, limits.max_connection_age_s or 4.0, 4.0) / 4
        self.traffic = Traffic()
        self._counts = CallerCounts(limits.max_streams, limits.max_queued_calls)
        self._open: set[OpenStream] = set()
        self._unary: set[asyncio.Task[Any]] = set()
        self._refused: set[asyncio.Task[Any]] = set()
        self.draining = False

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, context: Any, call: Callable[[OpenStream, bytes | Chunk], Awaitable[None]]) -> None:
        """Serves the calls of a stream one after the other, until the client closes it or a call fails."""
        stream = OpenStream(context, self.identity, self._limits, self.traffic)
        try:
            # Authenticate when the stream opens and again at each call: credentials may expire meanwhile.
            stream.identify()
            self._let_in(stream)
            while (message := await stream.read_call()) is not None:
                if self.draining:
                    raise Draining(DRAINING)
                stream.identify()
                if self.refusing is not None:
                    raise self.refusing
                await self._called(stream, call, message)
                if self.draining or stream.old:
                    return
        except asyncio.CancelledError:
            await stream.ended()
        except grpc.aio.AbortError:
            raise
        except Exception as e:
            await stream.abort(e)
        finally:
            self._let_out(stream)

    async def _called(
        self, stream: OpenStream, call: Callable[[OpenStream, bytes | Chunk], Awaitable[None]], message: bytes | Chunk
    ) -> None:
        caller = stream.caller
        self._counts.begin_call(caller)
        try:
            stream.in_call = True
            stream.pace.begin()
            await call(stream, message)
            stream.call_ended()
        finally:
            self._counts.end_call(caller)

    def _let_in(self, stream: OpenStream) -> None:
        """Counts a stream, ending an idle one of the caller's to make room. Raises QueueFull if it has too many."""
        caller = stream.caller
        if self._counts.crowded(caller):
            idle = [s for s in self._open if s.counted_as == caller and not s.in_call and s.waiting_since_s is not None]
            if idle:
                longest = min(idle, key=lambda s: s.waiting_since_s or 0.0)
                longest.end(None)
                self._let_out(longest)
        self._counts.open_stream(caller)
        stream.counted_as = caller
        self._open.add(stream)

    def _let_out(self, stream: OpenStream) -> None:
        if stream in self._open:
            self._open.remove(stream)
            self._counts.close_stream(stream.counted_as)

    @contextmanager
    def unary(self) -> Iterator[None]:
        """Runs a unary call, which `refuse` ends with its reason."""
        task = asyncio.current_task()
        assert task is not None
        self._unary.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self.refusing is None or task not in self._refused:
                raise
            raise self.refusing from None
        finally:
            self._unary.discard(task)
            self._refused.discard(task)

    def refuse(self, reason: Exception | None) -> None:
        """Ends all calls with an error and accepts no new ones; with None, accepts them again."""
        self.refusing = reason
        if reason is None:
            return
        for stream in list(self._open):
            if stream.in_call:
                stream.end(reason)
        for task in self._unary:
            self._refused.add(task)
            task.cancel()

    def drain(self) -> None:
        """Ends the streams between calls, and each of the others after its call."""
        self.draining = True
        for stream in list(self._open):
            if not stream.in_call:
                stream.end(Draining(DRAINING))

    async def sweep(self) -> None:
        """Ends streams that have waited too long or are too old, periodically."""
        while True:
            await asyncio.sleep(self._sweep_s)
            now_s = asyncio.get_running_loop().time()
            for stream in list(self._open):
                if stream.waiting_since_s is None:
                    continue
                waited_s = now_s - stream.waiting_since_s
                if stream.in_call and waited_s > self._stall_timeout_s:
                    told = Stalled(f"the client sent and read nothing for {self._stall_timeout_s:g} s in the middle of the call")
                    stream.end(told, stuck=True)
                elif not stream.in_call and (waited_s > self._idle_timeout_s or stream.old):
                    stream.end(None)


def _old_s(now_s: float, connection_age_s: float | None) -> float:
    """Loop time at which a stream that begins now is old."""
    return float("inf") if connection_age_s is None else now_s + connection_age_s * random.uniform(*_AGES)
