"""A connection to a server: it opens when it is first used, and again after a fork, a pickle or a lost network.

Streams are kept open between calls and lent to one caller at a time, so that any number of threads can share a
connection without waiting for each other.
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
"""How often a call is made again that no server has begun with, before that counts as an attempt."""

_GRACE_S = 0.25
"""How much later than the server the client ends a call whose time is over, so that the server's word comes first."""


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
    """Checks the arguments of `gradwire.client.connect` and makes a connection of them. Raises InvalidCall."""
    target(address)
    if token is not None and not tls and not local(address):
        raise InvalidCall(
            f"a token needs TLS: it would travel to {address} in the clear; pass tls=, a file with certificates to trust, or True"
        )
    check_token(token)
    channel_credentials(tls, certificate)
    return Connection(address, token, tls, certificate, timeout_s, retry, renewal, same_host)


class Connection:
    """Calls to the servers at an address: streams, retries, deadlines, and a new start after a fork or a pickle.

    Threads may share it. It can be pickled and copied: a copy is the same connection; an unpickled one is a new one.
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
        # Outlives channels: calls that were under way when one was closed are still watched.
        self._deadlines = Deadlines()
        self._channel: grpc.Channel | None
        self._idle: defaultdict[Way, deque[AnyStream]]
        self._forget()
        _connections.add(self)

    def close(self) -> None:
        """Closes the connection. It opens again if it is used again."""
        with self._lock:
            channel, idle, same_host = self._channel, self._idle, self._same_host
            self._forget()
        same_host.close()
        for streams in list(idle.values()):
            with suppress(IndexError):  # empty; other threads may take some meanwhile
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

    # Calls, for the estimator.

    def new_request_id(self) -> str:
        """An id that no other call of any client has."""
        return f"{self._id}-{next(self._numbers)}"

    def header(self, model: str) -> estimator_pb2.CallHeader:
        """The header of a new call: its model, an id, the time limit and the trace."""
        return estimator_pb2.CallHeader(
            model=model, request_id=self.new_request_id(), timeout_s=self.timeout_s or 0.0, traceparent=traceparent()
        )

    def call(self, method: str, opening: bytes, arrays: Sequence[tuple[str, Array | Outgoing]], model: str = "") -> Array:
        """One call on rows, made again where that is safe and may help.

        Args:
            method: The contract's name of it.
            opening: The field ``open`` of its first message.
            arrays: Its tensors, in the contract's order.
            model: The served name, for `routing`; the server reads that in ``opening``.
        """
        due_s = self._due_s()

        try:
            ready = all_outgoing(arrays)
        except WireError as e:
            raise error_of_wire(e) from None

        def once(attempt: int) -> Array:
            begin = opening if attempt == 1 else opening + _later_header(attempt, due_s)
            # If one open stream has ended, the others may have too.
            stream = self._lend(method, model, due_s) if attempt == 1 else self.open_stream(method, due_s, model)
            return self._on_stream((method, model), stream, first_message(begin, ready, stream.inline_nbytes), due_s)

        return self._again(once, due_s, self.retry.attempts)

    def open_stream(self, method: str, due_s: float | None = None, model: str = "") -> AnyStream:
        """A stream of the caller's own; over the server's Unix socket where that can be."""
        return self._same_host.open(self.channel, method, self._id, self._metadata, due_s) or self.open_grpc_stream(method, model)

    def open_grpc_stream(self, method: str, model: str = "") -> Stream:
        """A stream of the caller's own, whose messages are sent in the background."""
        return Stream(self.channel().stream_stream(_SERVICE + method), naming(model, self._metadata))

    def watch(self, stream: AnyStream) -> None:
        """Ends a call that begins now on the stream when its time is over, whether the server answers or not."""
        self._watch(stream, self._due_s())

    def unwatch(self, stream: AnyStream) -> bool:
        """Ends the watch; False if the time was over and the call has been ended."""
        return self.timeout_s is None or self._deadlines.remove(stream)

    def error_on(self, stream: AnyStream, error: grpc.RpcError) -> GradwireError:
        """The exception for a call on a stream that was watched and has failed."""
        if not self.unwatch(stream):
            return CallTimeout(f"{self.address} did not answer within {self.timeout_s:g} s; is the server alive?")
        return error_of(error, self.address, bool(self._tls) and self._certificate is None)

    def ask(self, unary: Callable[[dict[str, Any]], T], again: bool = True, model: str = "") -> T:
        """A unary call, about ``model`` if that is said; ``unary`` gets gRPC's keyword arguments for it."""

        due_s = self._due_s()

        def once(attempt: int) -> T:
            left_s = self.timeout_s if due_s is None or attempt == 1 else max(0.0, due_s - time.monotonic())
            try:
                return unary({"timeout": left_s, "metadata": naming(model, self._metadata)})
            except grpc.RpcError as e:
                raise error_of(e, self.address, bool(self._tls) and self._certificate is None) from None

        return self._again(once, due_s, self.retry.attempts if again else 1)

    def interrupted(self, stream: AnyStream) -> None:
        """Ends a call that Ctrl-C broke off, on the server too, and leaves its channel.

        The interrupt may have hit while gRPC held a lock of the channel's, which nobody will release then. So the channel
        is not used again and not closed either, and the stream is cancelled by a thread that may hang.
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
        """When the time of a call that begins now is over, by ``time.monotonic()``."""
        return None if self.timeout_s is None else time.monotonic() + self.timeout_s

    def _watch(self, stream: AnyStream, due_s: float | None) -> None:
        if due_s is not None:
            self._deadlines.add(stream, due_s + _GRACE_S)

    def _again(self, once: Callable[[int], T], due_s: float | None, attempts: int) -> T:
        """Calls ``once``, with the number of the attempt, until it gives something or trying again makes no sense."""
        failed = unseen = 0
        for attempt in itertools.count(1):
            try:
                return once(attempt)
            except (Unavailable, Exhausted) as e:
                if isinstance(e, Unavailable) and e.unseen and unseen < _UNSEEN:
                    # At once, on a stream of its own, which may lead to another server. To servers it is a later attempt all the
                    # same, so that not even a proxy that lies could make it cost twice.
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
                    # It may be over, and another one in its files by now: they are read for the next connection.
                    self.close()
                raise
        raise AssertionError("count does not end")

    def _on_stream(self, way: Way, stream: AnyStream, sent: tuple[bytes, list[memoryview]], due_s: float | None) -> Array:
        self._watch(stream, due_s)
        try:
            stream.send_call(*sent)
            result = stream.result()
        except grpc.RpcError as e:
            # Now: an exception that is kept would keep the stream too.
            stream.close()
            raise self.error_on(stream, e) from None
        except Exception as e:
            # An answer that is none, say: the server need not go on.
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
            except IndexError:  # another thread was faster
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
        """The open channel."""
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
    """What turns a call's header into that of a later attempt, with the time that is left, appended to the field ``open``.

    protobuf merges a message that comes twice, and ``call`` is field 1 of each method's ``open``.
    """
    header = estimator_pb2.CallHeader(attempt=attempt)
    if due_s is not None:
        header.timeout_s = max(0.001, due_s - time.monotonic())
    return open_field(estimator_pb2.PredictOpen(call=header).SerializeToString())


_abandoned: list[grpc.Channel] = []
"""Channels that must not even be collected: that would close them."""

_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child the parent's sockets and threads are of no use: every connection starts anew."""
    for connection in list(_connections):
        connection._lock = threading.Lock()
        connection._deadlines = Deadlines()
        connection._forget()


os.register_at_fork(after_in_child=_after_fork)
