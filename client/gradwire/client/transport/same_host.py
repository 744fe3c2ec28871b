"""A stream to a server on this host, over a Unix socket and without gRPC.

gRPC hands every message to threads of its own, on the way there and back. Here the caller's thread writes to the socket and
waits on it, which a small call answers in less than half the time.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from gradwire.client.errors import Unavailable
from gradwire.client.transport.streams import result_of
from gradwire.v1 import transport_pb2, transport_pb2_grpc
from gradwire.v1.transport_pb2 import SameHostHello
from gradwire.wire.frames import CHUNK_NBYTES, Chunk, chunk_header
from gradwire.wire.shared import INLINE_NBYTES, OFFER, PLACE, SLOT, Returned, Segment, create
from gradwire.wire.sockets import FREED, HEADER, HELLO, MESSAGE, SHARE, SHARED, STATUS, abstract, peer_of, supported
from gradwire.wire.status import DETAILS_KEY
from gradwire.wire.tensors import Array

_SCRATCH_NBYTES = 64 << 10
"""Frames within it are read at once with their header."""
_SMALL_NBYTES = 64 << 10
"""Messages up to here are copied behind their header."""
_MAX_FRAME_NBYTES = 4 * CHUNK_NBYTES
"""Far more than a server puts into one, and no more memory than that for what it announces."""

_TICKET_KEY = "gradwire-ticket"
"""Stands for the certificate that was shown over gRPC."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class SameHost:
    """The way to a server's Unix socket, if there is one.

    Args:
        wanted: Whether to look for it.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted and supported()
        self._name: str | None = None
        self._ticket = ""
        self._streams: weakref.WeakSet[SocketStream] = weakref.WeakSet()

    def close(self) -> None:
        """Ends all streams, and with them the calls that are under way."""
        for stream in list(self._streams):
            stream.cancel()

    def open(
        self,
        channel: Callable[[], grpc.Channel],
        method: str,
        client: str,
        metadata: tuple[tuple[str, str], ...],
        due_s: float | None,
    ) -> SocketStream | None:
        """A stream over the socket; None where there is none to be had now. ``due_s`` is when to stop asking for it."""
        # Twice: the name that is known may be that of a server which has been started again since.
        for _ in range(2):
            if not self._wanted or not (name := self._ask(channel, metadata, due_s)):
                return None
            try:
                ticket = ((_TICKET_KEY, self._ticket),) if self._ticket else ()
                stream = SocketStream(name, method, client, (*metadata, *ticket))
            except BlockingIOError:
                return None
            except OSError:
                self._name = None
                continue
            self._streams.add(stream)
            return stream
        # Not on this host after all: behind a tunnel, in another container, or another user's.
        self._wanted = False
        return None

    def _ask(self, channel: Callable[[], grpc.Channel], metadata: tuple[tuple[str, str], ...], due_s: float | None) -> str:
        if self._name is None:
            stub = transport_pb2_grpc.TransportServiceStub(channel())
            left_s = None if due_s is None else max(0.001, due_s - time.monotonic())
            try:
                told = stub.GetSameHost(transport_pb2.GetSameHostRequest(), timeout=left_s, metadata=metadata)
                self._name, self._ticket = told.socket, told.ticket
            except grpc.RpcError as e:
                # An older server, or one that is not there: the call that follows finds out.
                self._wanted = e.code() is not grpc.StatusCode.UNIMPLEMENTED
                return ""
        return self._name


class StreamEnded(grpc.RpcError):  # type: ignore[misc]
    """The server's status for the stream, in the form that gRPC's own errors have."""

    def __init__(self, code: grpc.StatusCode, text: str, status: bytes = b"") -> None:
        super().__init__(text)
        self._code, self._text, self._status = code, text, status

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return ((DETAILS_KEY, self._status),) if self._status else ()


class SocketStream:
    """An open stream of one method; as `streams.Stream`, with its attributes.

    Args:
        name: Of the server's socket.
        method: The contract's name.
        client: The connection that it belongs to.
        metadata: What the stream begins with.

    Raises:
        OSError: There is no such socket on this host, or it is another user's.
    """

    inline_nbytes = INLINE_NBYTES

    def __init__(self, name: str, method: str, client: str, metadata: tuple[tuple[str, str], ...]) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Not waited for: a server that hangs takes no more connections, and gRPC has deadlines for that.
            self._socket.setblocking(False)
            self._socket.connect(abstract(name))
            self._socket.setblocking(True)
            if (peer := peer_of(self._socket)).uid != os.geteuid():
                # Whoever listens there gets to see the token.
                raise PermissionError(f"the socket of another user's process, {peer.pid}")
            hello = SameHostHello(method=method, client=client, metadata=dict(metadata)).SerializeToString()
            self._socket.sendall(HEADER.pack(HELLO, len(hello)) + hello)
        except OSError:
            self._socket.close()
            raise
        self._readable = select.poll()
        self._readable.register(self._socket, select.POLLIN)
        self._both = select.poll()
        self._both.register(self._socket, select.POLLIN | select.POLLOUT)
        self._scratch = bytearray(_SCRATCH_NBYTES)
        self._begin = self._end = 0
        # What the present call still has to send: the rest of what is on its way, and what comes after it.
        self._rest: list[memoryview] = []
        self._unsent: Iterator[bytes | Chunk] | None = None
        self._waiting: Chunk | None = None
        # Memory that both sides share, once a large call has been made; False if the server cannot have it.
        self._segment: Segment | bool | None = None
        self._large_answer = False
        # The slot whose chunk is being read, and those that have been.
        self._lent: int | None = None
        self._returned = Returned()
        self.opened_s = time.monotonic()
        self.calls = 0

    @property
    def usable(self) -> bool:
        """Whether the server has not ended it, as far as is known here. Between calls it has nothing else to say."""
        return self._begin == self._end and not self._readable.poll(0)

    def send(self, messages: Iterator[bytes | Chunk]) -> None:
        """Sends of a call's messages what the socket takes at once; the others go while the answer is waited for."""
        self.calls += 1
        self._lent = None
        if isinstance(self._segment, Segment):
            self._segment.all_freed()
            self._returned.clear()
        self._unsent = messages
        self._push()

    def send_call(self, first: bytes, chunked: Sequence[memoryview]) -> None:
        """As `send`, of what `first_message` returned. Raises grpc.RpcError."""
        if self._segment is None and (chunked or self._large_answer):
            self._share()
        self.send(_in_chunks(first, chunked))

    def receive(self) -> bytes | memoryview | Chunk:
        """Waits for the next message. Raises grpc.RpcError, Unavailable."""
        self._give_back()
        while True:
            while (self._rest or (self._unsent is not None and self._waiting is None)) and self._begin == self._end:
                if any(events & ~select.POLLOUT for _, events in self._both.poll()):
                    break
                self._push()
            kind, frame = self._frame()
            if kind == MESSAGE:
                return frame
            if not isinstance(self._segment, Segment) or kind not in (SHARED, FREED):
                raise _ended(kind, frame)
            try:
                if kind == SHARED:
                    slot, offset, nbytes = PLACE.unpack(frame)
                    chunk = Chunk(offset, self._segment.get(slot, nbytes))
                    self._lent = slot
                    return chunk
                self._segment.freed(*SLOT.unpack(frame))
            except (ValueError, struct.error) as e:
                raise StreamEnded(grpc.StatusCode.INTERNAL, f"the server sent a frame that makes no sense: {e}") from None
            if self._waiting is not None:
                self._put(self._segment, self._waiting)
                self._push()

    def result(self) -> Array:
        """Waits for the answer to a call on rows. Raises grpc.RpcError, WireError, Unavailable."""
        result = result_of(self.receive)
        self._large_answer = result.nbytes > INLINE_NBYTES
        return result

    def close(self) -> None:
        """Ends the stream, also for a forked child that has inherited it."""
        self.cancel()
        self._socket.close()

    def cancel(self) -> None:
        """Ends the stream now, on the server too, and wakes whoever waits for it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _push(self) -> None:
        """Sends until the socket takes no more, or no slot is free."""
        try:
            while True:
                while self._rest:
                    sent = self._socket.sendmsg(self._rest, (), socket.MSG_DONTWAIT)
                    while self._rest and sent >= len(self._rest[0]):
                        sent -= len(self._rest.pop(0))
                    if sent:
                        self._rest[0] = self._rest[0][sent:]
                if self._unsent is None or self._waiting is not None:
                    return
                message = next(self._unsent, None)
                if isinstance(message, bytes):
                    # Together with the chunk after it, if there is one.
                    self._queue(MESSAGE, message)
                    message = next(self._unsent, None)
                if message is None:
                    self._unsent = None
                elif isinstance(message, bytes):
                    self._queue(MESSAGE, message)
                elif isinstance(self._segment, Segment):
                    self._put(self._segment, message)
                else:
                    self._queue(MESSAGE, chunk_header(message.offset, len(message.data)), message.data)
        except BlockingIOError:
            return
        except OSError:
            # The server has hung up; why, it may have said before.
            self._unsent, self._waiting, self._rest = None, None, []

    def _queue(self, kind: int, payload: bytes, data: memoryview | None = None) -> None:
        nbytes = len(payload) + (0 if data is None else len(data))
        if len(payload) <= _SMALL_NBYTES:
            self._rest.append(memoryview(HEADER.pack(kind, nbytes) + payload))
        else:
            self._rest += (memoryview(HEADER.pack(kind, nbytes)), memoryview(payload))
        if data is not None:
            self._rest.append(data)

    def _put(self, segment: Segment, chunk: Chunk) -> None:
        """Puts a chunk into a slot, or keeps it until one is free."""
        self._waiting = None if segment.free else chunk
        if segment.free:
            self._queue(SHARED, PLACE.pack(segment.put(chunk.data), chunk.offset, len(chunk.data)))

    def _give_back(self) -> None:
        """Tells the server that chunks which were read may be overwritten, once there are enough of them."""
        if self._lent is None:
            return
        frames, self._lent = self._returned.add(self._lent), None
        if frames:
            self._rest.append(memoryview(frames))
            self._push()

    def _share(self) -> None:
        """Offers the server memory. Called between calls, when nothing else is on its way."""
        self._segment = False
        try:
            file = create()
        except OSError:
            return
        try:
            segment = Segment(file, writes_second=False)
            self._queue(SHARE, OFFER.pack(file))
            self._push()
            # The file is open until the server has it.
            kind, answer = self._frame()
        except OSError:
            return  # no room to map it
        finally:
            os.close(file)
        if kind != SHARE:
            ended = _ended(kind, answer)
            if isinstance(ended, Unavailable):
                ended.unseen = True  # the call has not been sent
            raise ended
        if bytes(answer) == b"\1":
            self._segment = segment

    def _frame(self) -> tuple[int, bytes | memoryview]:
        while self._end - self._begin < HEADER.size:
            self._fill()
        kind, length = HEADER.unpack_from(self._scratch, self._begin)
        if length > _MAX_FRAME_NBYTES:
            raise StreamEnded(grpc.StatusCode.INTERNAL, f"the server sent a frame of {length} bytes, which makes no sense")
        self._begin += HEADER.size
        here = self._end - self._begin
        if here >= length:
            frame = bytes(memoryview(self._scratch)[self._begin : self._begin + length])
            self._begin += length
            return kind, frame
        large = memoryview(bytearray(length))
        large[:here] = memoryview(self._scratch)[self._begin : self._end]
        self._begin = self._end = 0
        while here < length:
            here += self._received(large[here:])
        return kind, large

    def _fill(self) -> None:
        if self._begin:
            rest = self._scratch[self._begin : self._end]
            self._scratch[: len(rest)] = rest
            self._begin, self._end = 0, len(rest)
        self._end += self._received(memoryview(self._scratch)[self._end :])

    def _received(self, into: memoryview) -> int:
        try:
            nbytes = self._socket.recv_into(into)
        except OSError as e:
            raise StreamEnded(grpc.StatusCode.UNAVAILABLE, str(e)) from None
        if not nbytes:
            raise StreamEnded(grpc.StatusCode.UNAVAILABLE, "the server hung up; it may have ended, or been restarted")
        return nbytes


def _in_chunks(first: bytes, chunked: Sequence[memoryview]) -> Iterator[bytes | Chunk]:
    yield first
    for data in chunked:
        for at in range(0, len(data), CHUNK_NBYTES):
            yield Chunk(at, data[at : at + CHUNK_NBYTES])


def _ended(kind: int, frame: bytes | memoryview) -> Exception:
    """The error for a frame that ends a stream."""
    if kind != STATUS:
        return StreamEnded(grpc.StatusCode.INTERNAL, f"the server sent a frame of kind {kind}, which makes no sense here")
    try:
        status = Status.FromString(bytes(frame))
    except (DecodeError, UnicodeDecodeError):
        return StreamEnded(grpc.StatusCode.INTERNAL, "the server ended the stream with a status that makes no sense")
    if status.code == 0:
        return Unavailable("the server ended the stream before it answered")
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return StreamEnded(code, status.message, bytes(frame) if status.details else b"")
