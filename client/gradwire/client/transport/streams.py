"""Client side of an open gRPC stream, which carries one call after the other."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol, cast

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from gradwire.client.errors import Unavailable
from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_FRAME, ERROR_REASON_TOO_LARGE
from gradwire.v1.estimator_pb2 import PredictResponse
from gradwire.wire.errors import WireError
from gradwire.wire.frames import CHUNK_NBYTES, Chunk, chunk_of, in_messages
from gradwire.wire.tensors import Array, Assembler, inline, spec_of


class Outbox:
    """Outgoing messages of successive calls, an iterator that gRPC consumes as fast as the server reads.

    It uses a single lock: a message reaches gRPC's sending thread in less time than through any queue of the standard
    library.
    """

    def __init__(self) -> None:
        self._calls: deque[Iterator[bytes] | None] = deque()
        self._filled = threading.Lock()
        self._filled.acquire()
        self._current: Iterator[bytes] = iter(())

    def put(self, messages: Iterator[bytes] | None) -> None:
        """Queues a call's messages; None ends the iteration."""
        self._calls.append(messages)
        with suppress(RuntimeError):  # filled already
            self._filled.release()

    def __iter__(self) -> Outbox:
        return self

    def __next__(self) -> bytes:
        while True:
            for message in self._current:
                return message
            while not self._calls:
                self._filled.acquire()
            calls = self._calls.popleft()
            if calls is None:
                raise StopIteration
            self._current = calls


class Stream:
    """An open stream of one method.

    Args:
        method: gRPC's callable for it, messages as bytes.
        metadata: What the call begins with.

    Attributes:
        inline_nbytes: Most data that a call's first message should have.
    """

    inline_nbytes = CHUNK_NBYTES

    def __init__(self, method: grpc.StreamStreamMultiCallable, metadata: tuple[tuple[str, str], ...]) -> None:
        self._outbox = Outbox()
        self._responses: Any = method(self._outbox, metadata=metadata)
        self.opened_s = time.monotonic()
        self.calls = 0

    @property
    def usable(self) -> bool:
        """True unless the server is known to have ended the stream."""
        return bool(self._responses.is_active())

    def send(self, messages: Iterator[bytes]) -> None:
        """Sends a call's messages in the background."""
        self.calls += 1
        self._outbox.put(messages)

    def send_call(self, first: bytes, chunked: Sequence[memoryview]) -> None:
        """Sends the messages of a call from the result of `first_message`."""
        self.send(in_messages(first, chunked))

    def receive(self) -> bytes:
        """Waits for the next message. Raises grpc.RpcError, Unavailable."""
        message = self._next()
        if message is None:
            # The server ended an idle stream, or began to drain, just as the call was sent: it has not seen the call.
            raise Unavailable("the server ended the stream before it answered")
        return message

    def result(self) -> Array:
        """Waits for the answer to a call on rows. Raises grpc.RpcError, WireError, Unavailable."""
        return result_of(self.receive)

    def _next(self) -> bytes | None:
        message: bytes | None = None
        try:
            message = next(self._responses, None)
        finally:
            if message is None:
                # Otherwise gRPC's thread for this stream would wait for messages forever.
                self._outbox.put(None)
        return message

    def close(self) -> None:
        """Ends the stream after the messages sent so far."""
        self._outbox.put(None)

    def cancel(self) -> None:
        """Ends the stream now, on the server too."""
        self._responses.cancel()
        self._outbox.put(None)


def parsed(message: bytes | memoryview | Chunk, kind: Any) -> Any:
    """Parses a message of the server. Raises WireError if it is malformed."""
    try:
        # protobuf also reads memoryviews, contrary to its type annotations.
        return kind.FromString(cast(bytes, message))
    except (DecodeError, UnicodeDecodeError, TypeError):
        # A chunk raises TypeError; protobuf in pure Python raises UnicodeDecodeError.
        raise WireError(ERROR_REASON_BAD_FRAME, f"the server's answer is not a {kind.DESCRIPTOR.name}") from None


def result_of(receive: Callable[[], bytes | memoryview | Chunk]) -> Array:
    """Reads the answer to a call on rows from messages of ``receive``. Raises its errors, and WireError."""
    try:
        first = receive()
    except Unavailable as e:
        # Servers never end a stream without an error in the middle of a call, and never charge calls that arrive afterwards.
        e.unseen = True
        raise
    answer = parsed(first, PredictResponse)
    if len(answer.tensors) != 1:
        raise WireError(ERROR_REASON_BAD_FRAME, f"the answer holds {len(answer.tensors)} tensors; expected one")
    header = answer.tensors[0]
    spec = spec_of(header, 0)
    data = header.data
    if data or not spec.nbytes:
        return inline(data, spec)
    try:
        into = np.empty(spec.shape, spec.dtype)
    except MemoryError:
        text = f"the answer has {spec.nbytes} bytes, more than this process can allocate; send fewer rows at once"
        raise WireError(ERROR_REASON_TOO_LARGE, text) from None
    assembler = Assembler(spec, into=into)
    while True:
        chunk = chunk_of(receive())
        if chunk is None:
            raise WireError(ERROR_REASON_BAD_FRAME, "the server sent another message; expected a chunk of the result")
        for result in assembler.feed(*chunk):
            return result


class Cancellable(Protocol):
    """A stream over any transport."""

    def cancel(self) -> None:
        """Ends the stream now."""


class Deadlines:
    """Deadlines of calls: cancels streams whose servers do not answer at all.

    A server that works ends a call at its deadline itself. This is for the others and need not be precise: it checks
    twenty times a second, and only while some call has a deadline.
    """

    _PERIOD_S = 0.05
    _LINGER_S = 5.0

    def __init__(self) -> None:
        self._due_s: dict[Cancellable, float] = {}
        self._some = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, stream: Cancellable, due_s: float) -> None:
        """Schedules a stream to be cancelled at ``due_s`` by ``time.monotonic()``, unless it is removed before."""
        with self._lock:
            self._due_s[stream] = due_s
            if not self._some.is_set():
                self._some.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="gradwire-deadlines", daemon=True)
                self._thread.start()

    def remove(self, stream: Cancellable) -> bool:
        """Removes a stream; False if it was cancelled at its deadline."""
        return self._due_s.pop(stream, None) is not None

    def _watch(self) -> None:
        while True:
            if not self._some.wait(self._LINGER_S):
                with self._lock:
                    if not self._due_s:
                        self._thread = None
                        return
            time.sleep(self._PERIOD_S)
            now_s = time.monotonic()
            for stream, due_s in list(self._due_s.items()):
                if due_s <= now_s and self.remove(stream):
                    stream.cancel()
            with self._lock:
                if not self._due_s:
                    self._some.clear()
