"""The server's side of the open streams: reading, writing, and ending them for a reason.

A stream is waited for either between calls (idle) or in the middle of one. A sweep ends those that have waited too
long, so that a client that stops sending, or stops taking results, holds nothing but its socket. What is ended between calls,
because it is idle, or old, or because the server is leaving, has cost nobody a call: a client's next one was not seen, and
goes to a new stream.
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
from gradwire.server.transport.pace import Pace
from gradwire.server.transport.places import Places
from gradwire.server.trust.identity.callers import Identity
from gradwire.server.values.principals import ANONYMOUS
from gradwire.wire.frames import CHUNK_NBYTES, Chunk, chunk_messages

if TYPE_CHECKING:
    from gradwire.server.telemetry.tracing import CallTrace

log = logging.getLogger("gradwire.server")

_AGES = (1.1, 1.3)
"""Of connections' greatest age, which gRPC itself spreads by a tenth, streams get as much: what a client opens after one that
began with its connection is on a new connection, and not all clients come back at once."""

DRAINING = "the server is about to end and takes no new calls; another one may be there soon"


class OpenStream:
    """One open stream.

    Attributes:
        peer: Who is at the other end, as gRPC names it.
        principal: Who makes the call under way, or made the last one.
        in_call: Whether a call is under way.
        waiting_since_s: Loop time since when the peer is waited for; None while it is not.
        pace: How fast the peer sends and takes the bytes of the call under way.
        place: Whose limits it counts for; empty before it has been let in.
        trace: Of the call under way; None if it is not traced.
        inline_nbytes: Most data that an answer's first message should have.
    """

    def __init__(self, context: Any, identity: Identity, limits: Limits, traffic: Traffic) -> None:
        self.peer: str = context.peer()
        self.pace = Pace(limits.min_bytes_per_s, limits.stall_timeout_s)
        self.place = ""
        self.trace: CallTrace | None = None
        self._traffic = traffic
        self._max_call_s = limits.max_call_s
        self.principal = ""
        self._caller = identity.caller(context)
        self.in_call = False
        self.waiting_since_s: float | None = None
        self._context = context
        # A stream on this host has a shorter way for chunks than messages, and wants to know where calls end.
        self._write_chunk = getattr(context, "write_chunk", None)
        self._read_all = getattr(context, "read_all", None)
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
        """Why the server has ended it, or is about to; None if it has not."""
        return self._reason

    @property
    def same_host(self) -> bool:
        """Whether it is one of a socket's of this host. These do not age: whoever opens another comes back to the same process."""
        return self.peer.startswith("same-host:")

    @property
    def old(self) -> bool:
        """Whether it should give way to a new one, once no call is under way."""
        return self._loop.time() > self._old_s

    def identify(self) -> None:
        """Asks who calls, now. Raises Unauthenticated."""
        self.principal = self._caller.principal()

    @property
    def caller(self) -> str:
        """Whom the stream counts for: the principal, or of those who are not told apart, the host."""
        if self.principal != ANONYMOUS:
            return self.principal
        return self.peer.partition(":")[0] if self.same_host else self.peer.rpartition(":")[0]

    @property
    def queue(self) -> str:
        """Who it takes turns with others as: the principal, or of those who are not told apart, the connection."""
        return self.peer if self.principal == ANONYMOUS else self.principal

    async def read(self) -> bytes | Chunk | None:
        """The next message of the call under way; None once the client has closed its side. Raises Stalled."""
        message = await self.read_next()
        if message is not None:
            self.pace.waited(self._waited_s, len(message.data if isinstance(message, Chunk) else message))
        return message

    async def read_next(self) -> bytes | Chunk | None:
        """The message that a call begins with, or something else that a client may take its time for."""
        self._heed()
        self.waiting_since_s = since_s = self._loop.time()
        message = await self._context.read()
        self._waited_s = self._loop.time() - since_s
        self.waiting_since_s = None
        if message is grpc.aio.EOF:
            return None
        self._traffic.received_nbytes += len(message.data if isinstance(message, Chunk) else message)
        taken: bytes | Chunk = message
        return taken

    async def write(self, message: bytes) -> None:
        """Sends a message, as soon as the client has room for it."""
        self._heed()
        self.waiting_since_s = since_s = self._loop.time()
        self._writing = True
        await self._context.write(message)
        self._wrote(since_s, len(message))

    async def write_data(self, data: memoryview, begin: int = 0, head: bytes = b"") -> None:
        """Sends data as chunks; it stands at byte ``begin`` of its tensor, and ``head`` is the message that goes before."""
        if self._write_chunk is None:
            if head:
                await self.write(head)
            for message in chunk_messages(data, begin):
                await self.write(message)
            return
        for at in range(0, len(data), CHUNK_NBYTES):
            self._heed()
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
        """The call under way has been answered; that its time was over meanwhile no longer matters."""
        self.in_call = False
        self.trace = None
        if self._read_all is not None:
            self._read_all()
        if not self._ended:
            self._reason = None

    def _heed(self) -> None:
        """Raises what `end` could not say while a write was under way."""
        if self._reason is not None and not self._ended:
            raise self._reason

    def end(self, reason: Exception | None, stuck: bool = False) -> None:
        """Ends the stream from outside its task, with an error, or, without a reason, as if all had been said.

        A write under way is waited for, unless it is ``stuck``: gRPC sends no status beside it.
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
            timeout_s: What the caller gives the call; not above 0: it did not say. The server's own limit ends it before.
        """
        given = f"the {timeout_s:g} s it was given"
        if self._max_call_s is not None and not 0 < timeout_s <= self._max_call_s:
            timeout_s, given = self._max_call_s, f"the {self._max_call_s:g} s of the limit max_call_s; send fewer rows at once"
        if not timeout_s > 0:
            return None
        return self._loop.call_later(timeout_s, self.end, TimedOut(f"the call took longer than {given}"))

    async def abort(self, error: Exception, idle: bool = False) -> None:
        """Ends the stream with an error, from inside its task; ``idle``: between calls, so that no call failed."""
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
            # Beside a write that is stuck no status can be sent; the client finds the stream ended.
            log.info("no status could be sent", extra={"peer": self.peer, "reason": told.text})

    async def ended(self) -> None:
        """What to do when the task was cancelled: tells the client why, if it was `end` that did it."""
        if not self._ended:
            raise asyncio.CancelledError  # the client has cancelled, or is gone
        if self._reason is not None:
            await self.abort(self._reason, idle=not self.in_call)


class OpenStreams:
    """All open streams of a server.

    Args:
        limits: What is taken from callers.
        identity: Tells who calls.

    Attributes:
        draining: Whether no new calls are taken because the server is about to end.
        refusing: Why no new calls are taken for now; None while they are.
        traffic: What has come and gone on them.
    """

    def __init__(self, limits: Limits, identity: Identity) -> None:
        self.identity = identity
        self.refusing: Exception | None = None
        self._limits = limits
        self._stall_timeout_s = limits.stall_timeout_s
        self._idle_timeout_s = limits.idle_timeout_s
        self._sweep_s = min(limits.stall_timeout_s, limits.idle_timeout_s, limits.max_connection_age_s or 4.0, 4.0) / 4
        self.traffic = Traffic()
        self._places = Places(limits.max_streams, limits.max_queued_calls)
        self._open: set[OpenStream] = set()
        self._unary: set[asyncio.Task[Any]] = set()
        self._refused: set[asyncio.Task[Any]] = set()
        self.draining = False

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, context: Any, call: Callable[[OpenStream, bytes | Chunk], Awaitable[None]]) -> None:
        """Serves calls on a stream, one after the other, until the client closes it or a call fails."""
        stream = OpenStream(context, self.identity, self._limits, self.traffic)
        try:
            # Strangers are not listened to, and of friends each call is asked about: they may be none by then.
            stream.identify()
            self._let_in(stream)
            while (message := await stream.read_next()) is not None:
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
        self._places.begin_call(caller)
        try:
            stream.in_call = True
            stream.pace.begin()
            await call(stream, message)
            stream.call_ended()
        finally:
            self._places.end_call(caller)

    def _let_in(self, stream: OpenStream) -> None:
        """Raises QueueFull if the caller has too many streams; one that is idle makes room, and its client opens another."""
        caller = stream.caller
        if self._places.crowded(caller):
            idle = [s for s in self._open if s.place == caller and not s.in_call and s.waiting_since_s is not None]
            if idle:
                longest = min(idle, key=lambda s: s.waiting_since_s or 0.0)
                longest.end(None)
                self._let_out(longest)
        self._places.open_stream(caller)
        stream.place = caller
        self._open.add(stream)

    def _let_out(self, stream: OpenStream) -> None:
        if stream in self._open:
            self._open.remove(stream)
            self._places.close_stream(stream.place)

    @contextmanager
    def unary(self) -> Iterator[None]:
        """A unary call, which ends when calls are refused too: with that reason."""
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
        """Ends all calls with an error, and takes no new ones; with None, takes them again."""
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
        """Ends the streams that are between calls, and lets each of the others finish the call it is in."""
        self.draining = True
        for stream in list(self._open):
            if not stream.in_call:
                stream.end(Draining(DRAINING))

    async def sweep(self) -> None:
        """Ends what has waited too long or is too old, over and over."""
        while True:
            await asyncio.sleep(self._sweep_s)
            now_s = asyncio.get_running_loop().time()
            for stream in list(self._open):
                if stream.waiting_since_s is None:
                    continue
                waited_s = now_s - stream.waiting_since_s
                if stream.in_call and waited_s > self._stall_timeout_s:
                    told = Stalled(f"nothing was sent or taken for {self._stall_timeout_s:g} s in the middle of the call")
                    stream.end(told, stuck=True)
                elif not stream.in_call and (waited_s > self._idle_timeout_s or stream.old):
                    stream.end(None)


def _old_s(now_s: float, connection_age_s: float | None) -> float:
    """When a stream that begins now is old."""
    return float("inf") if connection_age_s is None else now_s + connection_age_s * random.uniform(*_AGES)
