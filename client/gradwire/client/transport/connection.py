"""Connection to a server: streams, retries and deadlines.

It opens at its first use, and again after a fork or a lost network. Streams stay open between calls, and each serves one
caller at a time, so that any number of threads can share a connection without waiting for each other.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
import uuid
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import grpc

from gradwire.client import errors
from gradwire.client.errors import CallTimeout, Exhausted, GradwireError, InvalidCall, Unavailable, error_of, error_of_wire
from gradwire.client.settings import Renewal, Retry
from gradwire.client.transport.channel import local, open_channel, several, target
from gradwire.client.transport.credentials import ClientCertificate, channel_credentials, check_token
from gradwire.client.transport.routing import Metadata, naming
from gradwire.client.transport.same_host import SameHost, SocketStream
from gradwire.client.transport.streams import Deadlines, Stream
from gradwire.client.transport.tracing import traceparent
from gradwire.v1 import estimator_pb2
from gradwire.wire.errors import WireError
from gradwire.wire.frames import first_message, open_field
from gradwire.wire.tensors import Array, Outgoing, all_outgoing

T = TypeVar("T")
AnyStream: TypeAlias = Stream | SocketStream
Way: TypeAlias = tuple[str, str]  # method and model

_SERVICE = "/gradwire.v1.EstimatorService/"

_UNSEEN = 3
"""Immediate retries of a call that no server has begun, before one counts as an attempt."""

_GRACE_S = 0.25
"""Delay of the client's deadline after the server's, so that the server's error arrives first."""


def connection_to(
    address: str,
    token: str | None,
    tls: str | os.PathLike[str] | bool | None,
    certificate: ClientCertificate | None,
    timeout_s: float | None,
    retry: Retry,
    renewal: Renewal,
    same_host: bool,
) -> Connection:
    """Checks the arguments of `gradwire.client.connect` and returns a connection. Raises InvalidCall."""
    target(address)
    if token is not None and not tls and not local(address):
        raise InvalidCall(
            f"a token needs TLS: it would travel to {address} in the clear; pass tls=, a file with certificates to trust, or True"
        )
    check_token(token)
    channel_credentials(tls, certificate)
    return Connection(address, token, tls, certificate, timeout_s, retry, renewal, same_host)


class Connection:
    """A connection to the servers at an address, which carries calls.

    Threads may share it. It can be pickled and copied: a copy is the same connection; an unpickled one is new.
    """

    def __init__(
        self,
        address: str,
        token: str | None,
        tls: str | os.PathLike[str] | bool | None,
        certificate: ClientCertificate | None,
        timeout_s: float | None,
        retry: Retry,
        renewal: Renewal,
        same_host: bool,
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.retry = retry
        self._token = token
        self._tls = tls
        self._certificate = certificate
        self._renewal = renewal
        self._may_leave_grpc = same_host and local(address) and not several(address)
        self._lock = threading.Lock()
        # Outlives channels: calls that run when one is closed keep their deadlines.
        self._deadlines = Deadlines()
        self._channel: grpc.Channel | None
        self._idle: defaultdict[Way, deque[AnyStream]]
        self._forget()
        _connections.add(self)

    def close(self) -> None:
        """Closes the connection. Its next use opens it again."""
        with self._lock:
            channel, idle, same_host = self._channel, self._idle, self._same_host
            self._forget()
        same_host.close()
        for streams in list(idle.values()):
            with suppress(IndexError):  # empty; other threads may take streams meanwhile
                while True:
                    streams.pop().close()
        if channel is not None:
            channel.close()

    def __reduce__(self) -> tuple[Any, ...]:
        caller = (self._token, self._tls, self._certificate)
        return Connection, (self.address, *caller, self.timeout_s, self.retry, self._renewal, self._may_leave_grpc)

    def __copy__(self) -> Connection:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Connection:
        return self

    def __repr__(self) -> str:
        return f"Connection({self.address!r})"

    # Calls.

    def new_request_id(self) -> str:
        """Returns an id that is unique among all calls of all clients."""
        return f"{self._id}-{next(self._numbers)}"

    def header(self, model: str) -> estimator_pb2.CallHeader:
        """Makes the header of a new call: its model, id, time limit and trace context."""
        return estimator_pb2.CallHeader(
            model=model, request_id=self.new_request_id(), timeout_s=self.timeout_s or 0.0, traceparent=traceparent()
        )

    def call(self, method: str, opening: bytes, arrays: Sequence[tuple[str, Array | Outgoing]], model: str = "") -> Array:
        """Makes one call on rows and returns its result. Retries it where that is safe and may help.

        Args:
            method: The contract's name of the method.
            opening: The field ``open`` of the first message.
            arrays: The call's tensors, in the contract's order.
            model: The served name, for `routing`; the server reads the one in ``opening``.
        """
        due_s = self._due_s()

        try:
            ready = all_outgoing(arrays)
        except WireError as e:
            raise error_of_wire(e) from None

        def once(attempt: int) -> Array:
            begin = opening if attempt == 1 else opening + _later_header(attempt, due_s)
            # If one open stream has ended, others may have ended too.
            stream = self._lend(method, model, due_s) if attempt == 1 else self.open_stream(method, due_s, model)
            return self._on_stream((method, model), stream, first_message(begin, ready, stream.inline_nbytes), due_s)

        return self._again(once, due_s, self.retry.attempts)

    def open_stream(self, method: str, due_s: float | None = None, model: str = "") -> AnyStream:
        """Opens a stream for one caller, over the server's Unix socket if possible."""
        return self._same_host.open(self.channel, method, self._id, self._metadata, due_s) or self.open_grpc_stream(method, model)

    def open_grpc_stream(self, method: str, model: str = "") -> Stream:
        """Opens a gRPC stream for one caller. Its messages are sent in the background."""
        return Stream(self.channel().stream_stream(_SERVICE + method), naming(model, self._metadata))

    def watch(self, stream: AnyStream) -> None:
        """Starts the deadline of a call that begins now on the stream."""
        self._watch(stream, self._due_s())

    def unwatch(self, stream: AnyStream) -> bool:
        """Removes the deadline; False if it has passed and the call was cancelled."""
        return self.timeout_s is None or self._deadlines.remove(stream)

    def error_on(self, stream: AnyStream, error: grpc.RpcError) -> GradwireError:
        """Returns the exception for a failed call on a watched stream."""
        if not self.unwatch(stream):
            return CallTimeout(f"{self.address} did not answer within {self.timeout_s:g} s; is the server alive?")
        return error_of(error, self.address, bool(self._tls) and self._certificate is None)

    def ask(self, unary: Callable[[dict[str, Any]], T], again: bool = True, model: str = "") -> T:
        """Makes a unary call, with retries.

        Args:
            unary: Makes one attempt with gRPC's keyword arguments.
            again: False: never retry.
            model: The served name, for `routing`.
        """
        due_s = self._due_s()

        def once(attempt: int) -> T:
            left_s = self.timeout_s if due_s is None or attempt == 1 else max(0.0, due_s - time.monotonic())
            try:
                return unary({"timeout": left_s, "metadata": naming(model, self._metadata)})
            except grpc.RpcError as e:
                raise error_of(e, self.address, bool(self._tls) and self._certificate is None) from None

        return self._again(once, due_s, self.retry.attempts if again else 1)

    def interrupted(self, stream: AnyStream) -> None:
        """Cancels a call that Ctrl-C interrupted, on the server too, and abandons its channel.

        The interrupt may have hit while gRPC held a lock of the channel, which is never released then. So the channel is
        neither used again nor closed, and a thread that may hang cancels the stream.
        """
        self.unwatch(stream)
        if isinstance(stream, SocketStream):
            stream.cancel()
            return
        self._abandon()
        threading.Thread(target=stream.cancel, name="gradwire-cancel", daemon=True).start()

    # Inside.

    def _abandon(self) -> None:
        if self._channel is not None:
            _abandoned.append(self._channel)
            self._forget()

    def _due_s(self) -> float | None:
        """Returns the deadline of a call that begins now, by ``time.monotonic()``."""
        return None if self.timeout_s is None else time.monotonic() + self.timeout_s

    def _watch(self, stream: AnyStream, due_s: float | None) -> None:
        if due_s is not None:
            self._deadlines.add(stream, due_s + _GRACE_S)

    def _again(self, once: Callable[[int], T], due_s: float | None, attempts: int) -> T:
        """Calls ``once`` with the attempt's number until it succeeds or a retry is pointless."""
        failed = unseen = 0
        for attempt in itertools.count(1):
            try:
                return once(attempt)
            except (Unavailable, Exhausted) as e:
                if isinstance(e, Unavailable) and e.unseen and unseen < _UNSEEN:
                    # Retry immediately on a new stream, which may lead to another server. Servers still see a later attempt, so
                    # that it cannot be charged twice even if a proxy is wrong.
                    unseen += 1
                    continue
                failed += 1
                passing = isinstance(e, Unavailable) or e.retry_after_s is not None
                delay_s = self.retry.delay_s(failed, e.retry_after_s)
                late = due_s is not None and time.monotonic() + delay_s >= due_s
                if not passing or late or failed >= attempts:
                    raise
                time.sleep(delay_s)
            except BaseException as e:
                if not isinstance(e, Exception):  # Ctrl-C: see `interrupted`
                    self._abandon()
                elif isinstance(e, errors.Unauthenticated) and self._certificate is not None:
                    # The certificate may have expired and its files may hold a new one: the next connection reads them again.
                    self.close()
                raise
        raise AssertionError("count does not end")

    def _on_stream(self, way: Way, stream: AnyStream, sent: tuple[bytes, list[memoryview]], due_s: float | None) -> Array:
        self._watch(stream, due_s)
        try:
            stream.send_call(*sent)
            result = stream.result()
        except grpc.RpcError as e:
            # Close now: a stored exception would keep the stream alive.
            stream.close()
            raise self.error_on(stream, e) from None
        except Exception as e:
            # For example a malformed answer: the server need not continue.
            self.unwatch(stream)
            stream.cancel()
            if isinstance(e, WireError):
                raise error_of_wire(e) from None
            raise
        except BaseException:
            self.interrupted(stream)
            raise
        if self.unwatch(stream):
            self._give_back(way, stream)
        return result

    def _lend(self, method: str, model: str, due_s: float | None) -> AnyStream:
        idle = self._idle[method, model]
        while idle:
            try:
                stream = idle.pop()
            except IndexError:  # another thread took it
                break
            if stream.usable and not self._old(stream):
                return stream
            stream.close()
        return self.open_stream(method, due_s, model)

    def _give_back(self, way: Way, stream: AnyStream) -> None:
        self._idle[way].append(stream)

    def _old(self, stream: AnyStream) -> bool:
        return stream.calls >= self._renewal.calls or time.monotonic() - stream.opened_s > self._renewal.seconds

    def channel(self) -> grpc.Channel:
        """Returns the open channel, and opens it if needed."""
        channel = self._channel
        if channel is None:
            with self._lock:
                channel = self._channel = self._channel or open_channel(self.address, self._tls, self._certificate)
        return channel

    @property
    def _metadata(self) -> Metadata:
        return () if self._token is None else (("authorization", f"Bearer {self._token}"),)

    def _forget(self) -> None:
        self._channel = None
        self._same_host = SameHost(self._may_leave_grpc)
        self._idle = defaultdict(deque)
        self._id = uuid.uuid4().hex
        self._numbers = itertools.count()


def _later_header(attempt: int, due_s: float | None) -> bytes:
    """Returns bytes that, appended to the field ``open``, turn a header into that of a later attempt.

    They hold the attempt's number and the time left. protobuf merges a message that comes
    twice, and ``call`` is field 1 of each method's ``open``.
    """
    header = estimator_pb2.CallHeader(attempt=attempt)
    if due_s is not None:
        header.timeout_s = max(0.001, due_s - time.monotonic())
    return open_field(estimator_pb2.PredictOpen(call=header).SerializeToString())


_abandoned: list[grpc.Channel] = []
"""Channels that must not be garbage-collected, because that would close them."""

_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork() -> None:
    """Resets every connection in a forked child, which cannot use the parent's sockets and threads."""
    for connection in list(_connections):
        connection._lock = threading.Lock()
        connection._deadlines = Deadlines()
        connection._forget()


os.register_at_fork(after_in_child=_after_fork)
