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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from gradwire.client.card import ModelCard, card_of
from gradwire.client.errors import CallTimeout, Exhausted, GradwireError, InvalidCall, Unavailable, error_of, error_of_wire
from gradwire.client.settings import Renewal, Retry
from gradwire.client.streams import Deadlines, Stream
from gradwire.client.usage import Usage, usage_of
from gradwire.v1 import model_pb2, model_pb2_grpc, usage_pb2, usage_pb2_grpc
from gradwire.wire.errors import WireError
from gradwire.wire.frames import messages
from gradwire.wire.tensors import Array

if TYPE_CHECKING:
    from gradwire.client.estimator import RemoteEstimator

T = TypeVar("T")

_SERVICE = "/gradwire.v1.EstimatorService/"

_GRACE_S = 0.25
"""How much later than the server the client ends a call whose time is over, so that the server's word comes first."""


def connect(
    address: str,
    *,
    token: str | None = None,
    tls: str | os.PathLike[str] | bool | None = None,
    timeout_s: float | None = None,
    retry: Retry | None = None,
    renewal: Renewal | None = None,
) -> Server:
    """A connection to the server at ``address``. Nothing is sent before it is used.

    Args:
        address: ``host:port``, ``unix:PATH``, or any other target that gRPC knows.
        token: Who calls; sent only over TLS or to this host.
        tls: A file with the certificates to trust (PEM), or True for the system's; None: no TLS.
        timeout_s: How long a call may take; None: as long as it takes, provided that the server is alive.
        retry: How safe calls are made again.
        renewal: When open streams give way to new ones.

    Returns:
        A `Server`; a context manager, to close it.

    Raises:
        InvalidCall: A token would be sent to another host without TLS.
    """
    if token is not None and not tls and not _local(address):
        raise InvalidCall(f"a token would travel to {address} in the clear; pass tls=, a file with certificates to trust, or True")
    return Server(address, token, tls, timeout_s, retry or Retry(), renewal or Renewal())


class Server:
    """A server at an address, as one caller sees it. Made by `connect`.

    Threads may share it. It can be pickled and copied (a copy is the same connection; what is unpickled connects anew).
    """

    def __init__(
        self,
        address: str,
        token: str | None,
        tls: str | os.PathLike[str] | bool | None,
        timeout_s: float | None,
        retry: Retry,
        renewal: Renewal,
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.retry = retry
        self._token = token
        self._tls = tls
        self._renewal = renewal
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None
        self._idle: defaultdict[str, deque[Stream]]
        self._forget()
        _connections.add(self)

    # What is there.

    def models(self) -> list[ModelCard]:
        """The cards of what this caller may use."""
        reply = self.ask(lambda timeout: self._models().ListModels(model_pb2.ListModelsRequest(), **timeout))
        return [card_of(message) for message in reply.models]

    def card(self, name: str) -> ModelCard:
        """The card of one served name. Raises UnknownModel."""
        reply = self.ask(lambda timeout: self._models().GetModel(model_pb2.GetModelRequest(model=name), **timeout))
        return card_of(reply.model)

    def estimator(self, name: str) -> RemoteEstimator:
        """The estimator behind a served name. Raises UnknownModel."""
        from gradwire.client.estimator import RemoteEstimator

        return RemoteEstimator(self, self.card(name))

    def usage(self, name: str = "") -> list[Usage]:
        """What this caller has used of one served name, or of all."""
        request = usage_pb2.GetUsageRequest(model=name)
        reply = self.ask(lambda timeout: usage_pb2_grpc.UsageServiceStub(self.channel()).GetUsage(request, **timeout))
        return [usage_of(message) for message in reply.models]

    def close(self) -> None:
        """Closes the connection. It opens again if it is used again."""
        with self._lock:
            channel, idle = self._channel, self._idle
            self._forget()
        for streams in idle.values():
            for stream in streams:
                stream.close()
        if channel is not None:
            channel.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Server, (self.address, self._token, self._tls, self.timeout_s, self.retry, self._renewal)

    def __copy__(self) -> Server:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Server:
        return self

    def __repr__(self) -> str:
        return f"Server({self.address!r})"

    # Calls, for the estimator.

    def new_request_id(self) -> str:
        """An id that no other call of any client has."""
        return f"{self._id}-{next(self._numbers)}"

    def call(self, method: str, opening: bytes, arrays: Sequence[tuple[str, Array]]) -> Array:
        """One call on rows, made again where that is safe and may help.

        Args:
            method: The contract's name of it.
            opening: The field ``open`` of its first message.
            arrays: Its tensors, in the contract's order.
        """
        return self._again(lambda: self._on_stream(method, lambda: messages(opening, arrays)))

    def open_stream(self, method: str) -> Stream:
        """A stream of the caller's own, for calls that are not made again."""
        channel = self.channel()
        return Stream(channel.stream_stream(_SERVICE + method), self._metadata)

    def watch(self, stream: Stream) -> None:
        """Ends a call on the stream when its time is over, whether the server answers or not."""
        if self.timeout_s is not None:
            self._deadlines.add(stream, time.monotonic() + self.timeout_s + _GRACE_S)

    def unwatch(self, stream: Stream) -> bool:
        """Ends the watch; False if the time was over and the call has been ended."""
        return self.timeout_s is None or self._deadlines.remove(stream)

    def error_on(self, stream: Stream, error: grpc.RpcError) -> GradwireError:
        """The exception for a call on a stream that was watched and has failed."""
        if not self.unwatch(stream):
            return CallTimeout(f"{self.address} did not answer within {self.timeout_s:g} s; is the server alive?")
        return error_of(error, self.address)

    def ask(self, unary: Callable[[dict[str, Any]], T], again: bool = True) -> T:
        """A unary call; ``unary`` gets gRPC's keyword arguments for it."""

        def once() -> T:
            try:
                return unary({"timeout": self.timeout_s, "metadata": self._metadata})
            except grpc.RpcError as e:
                raise error_of(e, self.address) from None

        return self._again(once) if again else once()

    def _models(self) -> model_pb2_grpc.ModelServiceStub:
        return model_pb2_grpc.ModelServiceStub(self.channel())

    # Inside.

    def _again(self, once: Callable[[], T]) -> T:
        for attempt in itertools.count(1):
            try:
                return once()
            except (Unavailable, Exhausted) as e:
                passing = isinstance(e, Unavailable) or e.retry_after_s is not None
                if not passing or attempt >= self.retry.attempts:
                    raise
                time.sleep(self.retry.delay_s(attempt, e.retry_after_s))
        raise AssertionError("count does not end")

    def _on_stream(self, method: str, outgoing: Callable[[], Iterator[bytes]]) -> Array:
        try:
            sent = outgoing()
        except WireError as e:
            raise error_of_wire(e) from None
        stream = self._lend(method)
        self.watch(stream)
        try:
            stream.send(sent)
            result = stream.result()
        except grpc.RpcError as e:
            raise self.error_on(stream, e) from None
        except WireError as e:
            stream.cancel()
            raise error_of_wire(e) from None
        except BaseException:
            # Ctrl-C, or an error of ours: the server need not go on.
            stream.cancel()
            raise
        self.unwatch(stream)
        self._give_back(method, stream)
        return result

    def _lend(self, method: str) -> Stream:
        idle = self._idle[method]
        while idle:
            try:
                stream = idle.pop()
            except IndexError:  # another thread was faster
                break
            if stream.usable and not self._old(stream):
                return stream
            stream.close()
        return self.open_stream(method)

    def _give_back(self, method: str, stream: Stream) -> None:
        self._idle[method].append(stream)

    def _old(self, stream: Stream) -> bool:
        return stream.calls >= self._renewal.calls or time.monotonic() - stream.opened_s > self._renewal.seconds

    def channel(self) -> grpc.Channel:
        """The open channel."""
        channel = self._channel
        if channel is None:
            with self._lock:
                channel = self._channel = self._channel or self._new_channel()
        return channel

    def _new_channel(self) -> grpc.Channel:
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # A server that is started again is found again within a call's retries.
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 100),
            # A server whose machine is gone is noticed in the middle of a call.
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            # Connections are not shared between channels: one that was closed or forked takes nobody else with it.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if self._tls is None or self._tls is False:
            return grpc.insecure_channel(self.address, options)
        roots = None if self._tls is True else Path(self._tls).read_bytes()
        return grpc.secure_channel(self.address, grpc.ssl_channel_credentials(roots), options)

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return () if self._token is None else (("authorization", f"Bearer {self._token}"),)

    def _forget(self) -> None:
        self._channel = None
        self._idle = defaultdict(deque)
        self._deadlines = Deadlines()
        self._id = uuid.uuid4().hex
        self._numbers = itertools.count()


def _local(address: str) -> bool:
    host = address.removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0].strip("[]")
    return address.startswith("unix:") or host in ("localhost", "::1") or host.startswith("127.")


_connections: weakref.WeakSet[Server] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child the parent's sockets and threads are of no use: every connection starts anew."""
    for server in list(_connections):
        server._lock = threading.Lock()
        server._forget()


os.register_at_fork(after_in_child=_after_fork)
