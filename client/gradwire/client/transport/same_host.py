"""Streams to a server on the same host, over a Unix socket instead of gRPC.

gRPC passes every message through threads of its own in both directions. Here the caller's thread writes to the socket and
waits on it, so that a small call takes less than half the time.
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
"""Frames of this size are read together with their header."""
_SMALL_NBYTES = 64 << 10
"""Smaller messages are copied behind their header."""
_MAX_FRAME_NBYTES = 4 * CHUNK_NBYTES
"""Far more than a server puts into one frame; bounds the memory allocated for an announced length."""

_PASS_KEY = "gradwire-ticket"
"""Metadata key of the pass that replaces the certificate shown over gRPC."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class SameHost:
    """Access to a server's Unix socket, if it offers one.

    Args:
        wanted: Whether to ask the server for it.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted and supported()
        self._name: str | None = None
        self._pass = ""
        self._streams: weakref.WeakSet[SocketStream] = weakref.WeakSet()

    def close(self) -> None:
        """Ends all streams and the calls that run on them."""
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
        """Opens a stream over the socket; None if that is not possible now. ``due_s`` is the call's deadline."""
        # Twice: the known name may belong to a server that was restarted since.
        for _ in range(2):
            if not self._wanted or not (name := self._ask(channel, metadata, due_s)):
                return None
            try:
                pass_ = ((_PASS_KEY, self._pass),) if self._pass else ()
                stream = SocketStream(name, method, client, (*metadata, *pass_))
            except BlockingIOError:
                return None
            except OSError:
                self._name = None
                continue
            self._streams.add(stream)
            return stream
        # The server is behind a tunnel, in another container, or runs as another user.
        self._wanted = False
        return None

    def _ask(self, channel: Callable[[], grpc.Channel], metadata: tuple[tuple[str, str], ...], due_s: float | None) -> str:
        if self._name is None:
            stub = transport_pb2_grpc.TransportServiceStub(channel())
            left_s = None if due_s is None else max(0.001, due_s - time.monotonic())
            try:
                reply = stub.GetSameHost(transport_pb2.GetSameHostRequest(), timeout=left_s, metadata=metadata)
                self._name, self._pass = reply.socket, reply.ticket
            except grpc.RpcError as e:
                # An older server, or no server: the following call fails with its own error.
                self._wanted = e.code() is not grpc.StatusCode.UNIMPLEMENTED
                return ""
        return self._name


class StreamEnded(grpc.RpcError):  # type: ignore[misc]
    """Status with which the server ended a stream; has the interface of gRPC's own errors."""

    def __init__(self, code: grpc.StatusCode, text: str, status: bytes = b"") -> None:
        super().__init__(text)
        self._code, self._text, self._status = code, text, status

    def code(self) -> grpc.StatusCode:
        """As `grpc.Call.code`."""
        return self._code

    def details(self) -> str:
        """As `grpc.Call.details`."""
        return self._text

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """As `grpc.Call.trailing_metadata`."""
        return ((DETAILS_KEY, self._status),) if self._status else ()


class SocketStream:
    """An open stream of one method over the socket; has the interface of `streams.Stream`.

    Args:
        name: The name of the server's socket.
        method: The contract's name of the method.
        client: The id of the stream's connection.
        metadata: Metadata sent at the start of the stream.

    Raises:
        OSError: No such socket exists on this host, or it belongs to another user.
    """

    inline_nbytes = INLINE_NBYTES

    def __init__(self, name: str, method: str, client: str, metadata: tuple[tuple[str, str], ...]) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Non-blocking: a server that hangs accepts no more connections, and gRPC has deadlines for that.
            self._socket.setblocking(False)
            self._socket.connect(abstract(name))
            self._socket.setblocking(True)
            if (peer := peer_of(self._socket)).uid != os.geteuid():
                # The token would be sent to that process.
                raise PermissionError(f"the socket belongs to another user's process, {peer.pid}")
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
        # Unsent parts of the current call: the rest of the current write, and the messages after it.
        self._rest: list[memoryview] = []
        self._unsent: Iterator[bytes | Chunk] | None = None
        self._waiting: Chunk | None = None
        # Shared memory, from the first large call on; False if the server cannot map it.
        self._segment: Segment | bool | None = None
        self._large_answer = False
        # The slot of the chunk being read, and slots to return.
        self._lent: int | None = None
        self._returned = Returned()
        self.opened_s = time.monotonic()
        self.calls = 0

    @property
    def usable(self) -> bool:
        """True unless the server is known to have ended the stream. Between calls it sends nothing else."""
        return self._begin == self._end and not self._readable.poll(0)

    def send(self, messages: Iterator[bytes | Chunk]) -> None:
        """Sends a call's messages as far as the socket accepts; the rest follows in `receive`."""
        self.calls += 1
        self._lent = None
        if isinstance(self._segment, Segment):
            self._segment.all_freed()
            self._returned.clear()
        self._unsent = messages
        self._push()

    def send_call(self, first: bytes, chunked: Sequence[memoryview]) -> None:
        """Sends the messages of a call from the result of `first_message`. Raises grpc.RpcError."""
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
                raise StreamEnded(grpc.StatusCode.INTERNAL, f"the server sent a malformed frame: {e}") from None
            if self._waiting is not None:
                self._put(self._segment, self._waiting)
                self._push()

    def result(self) -> Array:
        """Waits for the answer to a call on rows. Raises grpc.RpcError, WireError, Unavailable."""
        result = result_of(self.receive)
        self._large_answer = result.nbytes > INLINE_NBYTES
        return result

    def close(self) -> None:
        """Ends the stream, even if a forked child has inherited the socket."""
        self.cancel()
        self._socket.close()

    def cancel(self) -> None:
        """Ends the stream now, on the server too, and wakes threads that wait for it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _push(self) -> None:
        """Sends until the socket accepts no more, or no slot is free."""
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
                    # Sent together with a following chunk.
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
            # The server closed the connection; the reason may be among the frames received.
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
        """Gives slots that were read back to the server, once there are enough of them."""
        if self._lent is None:
            return
        frames, self._lent = self._returned.add(self._lent), None
        if frames:
            self._rest.append(memoryview(frames))
            self._push()

    def _share(self) -> None:
        """Offers shared memory to the server. Called between calls only."""
        self._segment = False
        try:
            file = create()
        except OSError:
            return
        try:
            segment = Segment(file, writes_second=False)
            self._queue(SHARE, OFFER.pack(file))
            self._push()
            # The file stays open until the server has opened it.
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
            raise StreamEnded(
                grpc.StatusCode.INTERNAL, f"the server sent a frame of {length} bytes; at most {_MAX_FRAME_NBYTES} are allowed"
            )
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
            raise StreamEnded(
                grpc.StatusCode.UNAVAILABLE, "the server closed the connection; it may have stopped or been restarted"
            )
        return nbytes


def _in_chunks(first: bytes, chunked: Sequence[memoryview]) -> Iterator[bytes | Chunk]:
    yield first
    for data in chunked:
        for at in range(0, len(data), CHUNK_NBYTES):
            yield Chunk(at, data[at : at + CHUNK_NBYTES])


def _ended(kind: int, frame: bytes | memoryview) -> Exception:
    """Returns the error for a frame that ends a stream."""
    if kind != STATUS:
        return StreamEnded(grpc.StatusCode.INTERNAL, f"the server sent an unexpected frame of kind {kind}")
    try:
        status = Status.FromString(bytes(frame))
    except (DecodeError, UnicodeDecodeError):
        return StreamEnded(grpc.StatusCode.INTERNAL, "the server ended the stream with a malformed status")
    if status.code == 0:
        return Unavailable("the server ended the stream before it answered")
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return StreamEnded(code, status.message, bytes(frame) if status.details else b"")
