"""A stream to a server on this host, over a Unix socket and without gRPC.

gRPC hands every message to threads of its own, on the way there and back. Here the caller's thread writes to the socket and
waits on it, which a small call answers in less than half the time.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import grpc
from google.rpc.status_pb2 import Status

from gradwire.client.errors import Unavailable
from gradwire.client.streams import result_of
from gradwire.v1 import transport_pb2, transport_pb2_grpc
from gradwire.v1.transport_pb2 import SameHostHello
from gradwire.wire.sockets import HEADER, HELLO, MESSAGE, STATUS, abstract, peer_of, supported
from gradwire.wire.status import DETAILS_KEY
from gradwire.wire.tensors import Array

_SCRATCH_NBYTES = 64 << 10
"""Frames within it are read at once with their header."""
_SMALL_NBYTES = 64 << 10
"""Messages up to here are copied behind their header."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class SameHost:
    """The way to a server's Unix socket, if there is one.

    Args:
        wanted: Whether to look for it.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted and supported()
        self._name: str | None = None

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
                return SocketStream(name, method, client, metadata)
            except OSError:
                self._name = None
        # Not on this host after all: behind a tunnel, in another container, or another user's.
        self._wanted = False
        return None

    def _ask(self, channel: Callable[[], grpc.Channel], metadata: tuple[tuple[str, str], ...], due_s: float | None) -> str:
        if self._name is None:
            stub = transport_pb2_grpc.TransportServiceStub(channel())
            left_s = None if due_s is None else max(0.001, due_s - time.monotonic())
            try:
                self._name = stub.GetSameHost(transport_pb2.GetSameHostRequest(), timeout=left_s, metadata=metadata).socket
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
    """An open stream of one method; as `streams.Stream`.

    Args:
        name: Of the server's socket.
        method: The contract's name.
        client: The connection that it belongs to.
        metadata: What the stream begins with.

    Raises:
        OSError: There is no such socket on this host, or it is another user's.
    """

    def __init__(self, name: str, method: str, client: str, metadata: tuple[tuple[str, str], ...]) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(abstract(name))
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
        # What the present call still has to send: the rest of a message, and the messages after it.
        self._rest = memoryview(b"")
        self._unsent: Iterator[bytes] | None = None
        self.opened_s = time.monotonic()
        self.calls = 0

    @property
    def usable(self) -> bool:
        """Whether the server has not ended it, as far as is known here. Between calls there is nothing else to read."""
        return self._begin == self._end and not self._readable.poll(0)

    def send(self, messages: Iterator[bytes]) -> None:
        """Sends of a call's messages what the socket takes at once; the others go while the answer is waited for."""
        self.calls += 1
        self._unsent = messages
        self._push()

    def receive(self) -> bytes | memoryview:
        """Waits for the next message. Raises grpc.RpcError, Unavailable."""
        while self._unsent is not None and self._begin == self._end:
            if any(events & ~select.POLLOUT for _, events in self._both.poll()):
                break
            self._push()
        kind, frame = self._frame()
        if kind == MESSAGE:
            return frame
        status = Status.FromString(bytes(frame)) if kind == STATUS else Status(code=13, message=f"a frame of kind {kind}")
        if status.code == 0:
            raise Unavailable("the server ended the stream before it answered")
        code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        raise StreamEnded(code, status.message, bytes(frame) if status.details else b"")

    def result(self) -> Array:
        """Waits for the answer to a call on rows. Raises grpc.RpcError, WireError, Unavailable."""
        return result_of(self.receive)

    def close(self) -> None:
        """Ends the stream."""
        self._socket.close()

    def cancel(self) -> None:
        """Ends the stream now, on the server too, and wakes whoever waits for it."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _push(self) -> None:
        try:
            while self._unsent is not None:
                if not self._rest:
                    message = next(self._unsent, None)
                    if message is None:
                        self._unsent = None
                        return
                    header = HEADER.pack(MESSAGE, len(message))
                    if len(message) > _SMALL_NBYTES:
                        self._rest = memoryview(message)
                        sent = self._socket.sendmsg([header, message], (), socket.MSG_DONTWAIT)
                        if sent < len(header):
                            self._rest = memoryview(header + message)[sent:]
                        else:
                            self._rest = self._rest[sent - len(header) :]
                        continue
                    self._rest = memoryview(header + message)
                self._rest = self._rest[self._socket.send(self._rest, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            return
        except OSError:
            # The server has hung up; why, it may have said before.
            self._unsent = None

    def _frame(self) -> tuple[int, bytes | memoryview]:
        while self._end - self._begin < HEADER.size:
            self._fill()
        kind, length = HEADER.unpack_from(self._scratch, self._begin)
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
