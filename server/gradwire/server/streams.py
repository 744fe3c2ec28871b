"""The server's side of the open streams: reading, writing, and ending them for a reason.

A stream is waited for either between calls (idle) or in the middle of one. A sweep ends those that have waited too
long, so that a client that stops sending, or stops taking results, holds nothing but its socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from gradwire.server.faults import Draining, Stalled, TimedOut, fault
from gradwire.wire.frames import CHUNK_NBYTES, Chunk, chunk_messages

log = logging.getLogger("gradwire.server")

DRAINING = "the server is about to end and takes no new calls; another one may be there soon"


class OpenStream:
    """One open stream.

    Attributes:
        peer: Who is at the other end, as gRPC names it.
        in_call: Whether a call is under way.
        waiting_since_s: Loop time since when the peer is waited for; None while it is not.
    """

    def __init__(self, context: Any) -> None:
        self.peer: str = context.peer()
        self.in_call = False
        self.waiting_since_s: float | None = None
        self._context = context
        # A stream on this host has a shorter way for chunks than messages.
        self._write_chunk = getattr(context, "write_chunk", None)
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._reason: Exception | None = None
        self._ended = False
        self._writing = False

    async def read(self) -> bytes | Chunk | None:
        """The next message; None once the client has closed its side."""
        self._heed()
        self.waiting_since_s = self._loop.time()
        message = await self._context.read()
        self.waiting_since_s = None
        return None if message is grpc.aio.EOF else message

    async def write(self, message: bytes) -> None:
        """Sends a message, as soon as the client has room for it."""
        self._heed()
        self.waiting_since_s = self._loop.time()
        self._writing = True
        await self._context.write(message)
        self._writing = False
        self.waiting_since_s = None

    async def write_data(self, data: memoryview, begin: int = 0) -> None:
        """Sends data as chunks; it stands at byte ``begin`` of its tensor."""
        if self._write_chunk is None:
            for message in chunk_messages(data, begin):
                await self.write(message)
            return
        for at in range(0, len(data), CHUNK_NBYTES):
            self._heed()
            self.waiting_since_s = self._loop.time()
            self._writing = True
            await self._write_chunk(begin + at, data[at : at + CHUNK_NBYTES])
            self._writing = False
            self.waiting_since_s = None

    def call_ended(self) -> None:
        """The call under way has been answered; that its time was over meanwhile no longer matters."""
        self.in_call = False
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

    def end_after(self, timeout_s: float) -> asyncio.TimerHandle:
        """Ends the stream with TimedOut unless the handle is cancelled in time."""
        return self._loop.call_later(timeout_s, self.end, TimedOut(f"the call took longer than the {timeout_s:g} s it was given"))

    async def abort(self, error: Exception) -> None:
        """Ends the stream with an error, from inside its task."""
        told = fault(error)
        if told.code is grpc.StatusCode.INTERNAL:
            log.error("call failed", extra={"peer": self.peer, "reason": told.text}, exc_info=error)
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
            await self.abort(self._reason)


class OpenStreams:
    """All open streams of a server.

    Args:
        stall_timeout_s: How long a peer may be waited for in the middle of a call.
        idle_timeout_s: How long a stream may stay open between calls.
    """

    def __init__(self, stall_timeout_s: float, idle_timeout_s: float) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._open: set[OpenStream] = set()
        self.draining = False

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, context: Any, call: Callable[[OpenStream, bytes | Chunk], Awaitable[None]]) -> None:
        """Serves calls on a stream, one after the other, until the client closes it or a call fails."""
        stream = OpenStream(context)
        self._open.add(stream)
        try:
            while (message := await stream.read()) is not None:
                if self.draining:
                    raise Draining(DRAINING)
                stream.in_call = True
                await call(stream, message)
                stream.call_ended()
                if self.draining:
                    return
        except asyncio.CancelledError:
            await stream.ended()
        except grpc.aio.AbortError:
            raise
        except Exception as e:
            await stream.abort(e)
        finally:
            self._open.discard(stream)

    def drain(self) -> None:
        """Ends the streams that are between calls, and lets each of the others finish the call it is in."""
        self.draining = True
        for stream in list(self._open):
            if not stream.in_call:
                stream.end(Draining(DRAINING))

    async def sweep(self) -> None:
        """Ends what has waited too long, over and over."""
        period_s = min(self._stall_timeout_s, self._idle_timeout_s, 4.0) / 4
        while True:
            await asyncio.sleep(period_s)
            now_s = asyncio.get_running_loop().time()
            for stream in list(self._open):
                if stream.waiting_since_s is None:
                    continue
                waited_s = now_s - stream.waiting_since_s
                if stream.in_call and waited_s > self._stall_timeout_s:
                    told = Stalled(f"nothing was sent or taken for {self._stall_timeout_s:g} s in the middle of the call")
                    stream.end(told, stuck=True)
                elif not stream.in_call and waited_s > self._idle_timeout_s:
                    stream.end(None)
