"""Unix socket for callers on this host: the estimator's streams without gRPC.

The streams carry the same messages as over gRPC, to the same services. The socket is abstract, so that no file remains, and
has a random name. Since names can be listed, the kernel is asked for the peer's user: only the server's own user may connect.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import struct
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from gradwire.server.errors import Draining
from gradwire.server.faults import fault
from gradwire.server.transport.streams import DRAINING
from gradwire.server.trust.identity.callers import Identity
from gradwire.v1.transport_pb2 import GetSameHostRequest, GetSameHostResponse, SameHostHello
from gradwire.v1.transport_pb2_grpc import TransportServiceServicer
from gradwire.wire.frames import Chunk, chunk_header
from gradwire.wire.shared import INLINE_NBYTES, OFFER, PLACE, SLOT, SLOTS, Returned, Segment, attach
from gradwire.wire.sockets import FREED, HEADER, HELLO, MESSAGE, SHARE, SHARED, STATUS, abstract, peer_of, supported
from gradwire.wire.status import DETAILS_KEY

log = logging.getLogger("gradwire.server")

_SCRATCH_NBYTES = 64 << 10
"""Frames up to this size are read together with their header."""
_QUEUED_NBYTES = 4 << 20
"""Bytes read ahead while a call is computed."""
_MESSAGE_NBYTES = 64
"""Bytes that each message counts for besides its own, so that empty ones count too."""
_SMALL_NBYTES = 64 << 10
"""Messages up to this size are copied behind their header and sent in one system call."""
_QUEUED_MESSAGES = 4 * SLOTS
"""Most chunks in shared memory that are announced and not read; a correct client never has more than the slots."""
_MAX_CLIENT = 64
"""Characters of a client's name that are kept."""
_HELLO_TIMEOUT_S = 10.0
_GOODBYE_S = 5.0
_LAST_WORDS_S = 0.5
"""Time for answers to be sent before the process ends."""


class SharedChunk(NamedTuple):
    """Place of a chunk in shared memory."""

    slot: int
    offset: int
    nbytes: int


class SameHost(TransportServiceServicer):
    """Listens on a Unix socket, and gives its name to callers of the gRPC server.

    Args:
        handlers: Handlers of the estimator's streams, by method.
        max_message_bytes: Largest frame.
        identity: Authenticates callers.
    """

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler], max_message_bytes: int, identity: Identity) -> None:
        self._identity = identity
        self.handlers = handlers
        self.max_message_bytes = max_message_bytes
        self.connections: set[Connection] = set()
        self._name = ""
        self._left = False

    async def GetSameHost(self, request: GetSameHostRequest, context: Any) -> GetSameHostResponse:  # noqa: N802, gRPC's name
        """Answers the socket's name, with a signed ticket in place of the caller's certificate: the socket has no TLS."""
        if self._left:
            told = fault(Draining(DRAINING))
            await context.abort(told.code, told.text, told.metadata())
        return GetSameHostResponse(socket=self._name, ticket=self._identity.ticket(context) if self._name else "")

    async def start(self) -> None:
        """Listens, if the system supports it."""
        if not supported():
            return
        name = f"gradwire-{secrets.token_hex(16)}"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Connection(self), abstract(name), backlog=1024)
        self._name = name

    def leave(self) -> None:
        """Accepts no new streams; open ones go on."""
        self._left = True
        if self._name:
            self._server.close()

    async def stop(self) -> None:
        """Ends all open streams."""
        self.leave()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + _LAST_WORDS_S
        while any(connection.closing for connection in self.connections) and loop.time() < end_s:
            await asyncio.sleep(0.01)
        tasks = [connection.task for connection in self.connections if connection.task is not None]
        for connection in list(self.connections):
            connection.abandon()
        await asyncio.gather(*tasks, return_exceptions=True)


class Connection(asyncio.BufferedProtocol):
    """One stream, with the methods of a gRPC context that the services use."""

    inline_nbytes = INLINE_NBYTES

    def __init__(self, host: SameHost) -> None:
        self.task: asyncio.Task[None] | None = None
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._client = ""
        self._hello_due: asyncio.TimerHandle | None = None
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._scratch = bytearray(_SCRATCH_NBYTES)
        self._scratch_filled = 0
        # A frame too large for the scratch memory, while it arrives.
        self._large = bytearray()
        self._large_filled = self._large_kind = 0
        self._messages: deque[bytes | bytearray | SharedChunk] = deque()
        self._segment: Segment | None = None
        # The slot whose chunk is being read, and those that were read.
        self._lent: int | None = None
        self._returned = Returned()
        # Whether the last call has ended and the next one has not begun.
        self._answered = False
        self._queued = 0
        self._paused = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._full = False

    # Methods of a gRPC context, for the services.

    def peer(self) -> str:
        """Name of the client and of all its streams. It holds the process id, so that no other process can claim it."""
        return f"same-host:{self._pid}:{self._client}"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata that the caller sent when it opened the stream."""
        return self._metadata

    async def read(self) -> Any:
        """Reads the next message. A client that disconnects cancels the stream's task, as in gRPC."""
        if self._lent is not None:
            frames, self._lent = self._returned.add(self._lent), None
            if frames:
                self._transport.write(frames)
                while self._full:  # a caller that reads nothing gets no more of these
                    self._writer = self._loop.create_future()
                    await self._writer
        while not self._messages:
            self._reader = self._loop.create_future()
            await self._reader
        message = self._messages.popleft()
        if self._answered and self._segment is not None:
            # A new call begins, so the answer to the last one has been read.
            self._segment.all_freed()
        self._answered = False
        if isinstance(message, SharedChunk):
            assert self._segment is not None  # queued chunks arrive after it, and are cleared with it
            self._lent = message.slot
            return Chunk(message.offset, self._segment.get(message.slot, message.nbytes))
        self._queued -= len(message) + _MESSAGE_NBYTES
        if self._paused and self._queued <= _QUEUED_NBYTES // 2:
            self._paused = False
            self._transport.resume_reading()
        return message

    async def write(self, message: bytes) -> None:
        """Sends a message, and waits until the next one can be sent."""
        self._send(MESSAGE, message)
        while self._full:
            self._writer = self._loop.create_future()
            await self._writer

    async def write_chunk(self, offset: int, data: memoryview, head: bytes) -> None:
        """Sends a chunk, through shared memory if the client offered some. ``head`` is a message to send first, or empty."""
        if self._segment is None:
            if head:
                self._send(MESSAGE, head)
            await self.write(b"".join((chunk_header(offset, len(data)), data)))
            return
        while not self._segment.free:
            self._writer = self._loop.create_future()
            await self._writer
        place = _frame(SHARED, PLACE.pack(self._segment.put(data), offset, len(data)))
        self._transport.write(_frame(MESSAGE, head) + place if head else place)

    async def next_call(self) -> Any:
        """Reads the first message of the next call.

        The slots of the call before are free without a message, and those of its answer once the next call begins.
        """
        self._lent, self._answered = None, True
        self._returned.clear()
        return await self.read()

    async def abort(self, code: grpc.StatusCode, text: str, metadata: Any = ()) -> None:
        """Ends the stream with an error."""
        details = dict(metadata).get(DETAILS_KEY)
        self._end(details or Status(code=code.value[0], message=text).SerializeToString())
        raise grpc.aio.AbortError

    # Callbacks of the event loop.

    def connection_made(self, transport: Any) -> None:
        """Accepts a connection of the server's own user."""
        self._transport = transport
        peer = peer_of(transport.get_extra_info("socket"))
        self._pid = peer.pid
        if peer.uid != os.geteuid():
            log.warning("refused a process of another user", extra={"pid": peer.pid, "uid": peer.uid})
            transport.abort()
            return
        self._host.connections.add(self)
        self._hello_due = self._loop.call_later(_HELLO_TIMEOUT_S, self.abandon)

    def connection_lost(self, error: Exception | None) -> None:
        """Ends the stream's task and frees its memory."""
        self._host.connections.discard(self)
        if self._hello_due is not None:
            self._hello_due.cancel()
        if self.task is not None:
            self.task.cancel()
        for waiting in (self._reader, self._writer):
            if waiting is not None and not waiting.done():
                waiting.cancel()
        # Freed now, not with the last reference: sixteen megabytes and a file.
        self._segment = None
        self._messages.clear()

    @property
    def closing(self) -> bool:
        """True if the stream has ended and some bytes are still to be sent."""
        return bool(self._transport.is_closing() and self._transport.get_write_buffer_size())

    def abandon(self) -> None:
        """Ends the stream without a status."""
        self._transport.abort()

    def eof_received(self) -> bool:
        """Closes the connection when the client closes its side."""
        return False

    def pause_writing(self) -> None:
        """Makes writers wait."""
        self._full = True

    def resume_writing(self) -> None:
        """Lets writers go on."""
        self._full = False
        _wake(self._writer)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Memory for the next bytes."""
        if self._large:
            return memoryview(self._large)[self._large_filled :]
        return memoryview(self._scratch)[self._scratch_filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Splits received bytes into frames."""
        if self._large:
            self._large_filled += nbytes
            if self._large_filled == len(self._large):
                kind, frame, self._large = self._large_kind, self._large, bytearray()
                self._received(kind, frame)
            return
        self._scratch_filled += nbytes
        at = 0
        while self._scratch_filled - at >= HEADER.size:
            kind, length = HEADER.unpack_from(self._scratch, at)
            if length > self._host.max_message_bytes:
                self._refuse(f"a frame of {length} bytes; the limit max_message_bytes is {self._host.max_message_bytes}")
                return
            begin = at + HEADER.size
            if self._scratch_filled - begin >= length:
                at = begin + length
                self._received(kind, bytes(memoryview(self._scratch)[begin:at]))
                continue
            if length > _SCRATCH_NBYTES - HEADER.size:
                # At most the limit, whatever length the header gives.
                self._large, self._large_kind = bytearray(length), kind
                self._large_filled = self._scratch_filled - begin
                self._large[: self._large_filled] = memoryview(self._scratch)[begin : self._scratch_filled]
                at = self._scratch_filled
            break
        if at:
            rest = self._scratch[at : self._scratch_filled]
            self._scratch[: len(rest)] = rest
            self._scratch_filled = len(rest)

    def _received(self, kind: int, frame: bytes | bytearray) -> None:
        if self.task is None:
            self._greet(kind, bytes(frame))
        elif kind == MESSAGE:
            self._messages.append(frame)
            self._queued += len(frame) + _MESSAGE_NBYTES
            if self._queued > _QUEUED_NBYTES and not self._paused:
                self._paused = True
                self._transport.pause_reading()
            _wake(self._reader)
        elif kind == SHARE and len(frame) == OFFER.size and self._segment is None:
            self._share(*OFFER.unpack(frame))
        elif kind in (SHARED, FREED) and self._segment is not None:
            self._about_slot(self._segment, kind, frame)
        else:
            self._refuse(f"a frame of kind {kind} and {len(frame)} bytes in a stream; expected {MESSAGE}, a message")

    def _share(self, number: int) -> None:
        try:
            self._segment = attach(self._pid, number)
        except OSError as e:
            # The client may be in another container; chunks then travel in messages.
            log.info("shared memory is not used", extra={"peer": self.peer(), "reason": str(e)})
        self._send(SHARE, b"\1" if self._segment else b"\0")

    def _about_slot(self, segment: Segment, kind: int, frame: bytes | bytearray) -> None:
        try:
            if kind == FREED:
                segment.freed(*SLOT.unpack(frame))
                _wake(self._writer)
                return
            place = SharedChunk(*PLACE.unpack(frame))
            segment.get(place.slot, place.nbytes)
            if len(self._messages) > _QUEUED_MESSAGES:
                raise ValueError(f"more than {_QUEUED_MESSAGES} chunks at once")
        except (ValueError, struct.error) as e:
            self._refuse(f"invalid frame about shared memory: {e}")
            return
        self._messages.append(place)
        _wake(self._reader)

    def _greet(self, kind: int, frame: bytes) -> None:
        try:
            hello = SameHostHello.FromString(frame)
        except DecodeError:
            hello = SameHostHello()
        handler = self._host.handlers.get(hello.method)
        if kind != HELLO or handler is None:
            self._refuse(f"the first frame of a stream is a hello with one of the methods: {', '.join(self._host.handlers)}")
            return
        assert self._hello_due is not None
        self._hello_due.cancel()
        self._client = hello.client[:_MAX_CLIENT]
        self._metadata = tuple(hello.metadata.items())
        self.task = self._loop.create_task(self._serve(handler))

    async def _serve(self, handler: Any) -> None:
        try:
            await handler.stream_stream(None, self)
            self._end(Status().SerializeToString())
        except grpc.aio.AbortError:
            pass  # the status has been sent
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        """Closes once all bytes are sent, or after a while if the peer does not read."""
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(_GOODBYE_S, self._transport.abort)

    def _send(self, kind: int, payload: bytes) -> None:
        if len(payload) <= _SMALL_NBYTES:
            self._transport.write(_frame(kind, payload))
        else:
            self._transport.write(HEADER.pack(kind, len(payload)))
            self._transport.write(payload)

    def _end(self, status: bytes) -> None:
        if not self._transport.is_closing():
            self._send(STATUS, status)

    def _refuse(self, text: str) -> None:
        self._end(Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message=text).SerializeToString())
        self._hang_up()


def _frame(kind: int, payload: bytes) -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
