"""Client side of a fit: sends training data while it receives progress. Fits are never retried."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from gradwire.client.errors import InvalidCall, error_of_wire
from gradwire.client.transport.connection import Connection
from gradwire.client.transport.streams import Stream, parsed
from gradwire.v1 import estimator_pb2 as pb
from gradwire.wire.errors import WireError
from gradwire.wire.frames import messages, open_field
from gradwire.wire.tensors import Array


@dataclass(frozen=True)
class Progress:
    """Progress of a fit: batch ``batch`` of ``nb_batches`` in epoch ``epoch`` of ``nb_epochs``; 0 for an unknown number.

    ``loss`` is the loss of the last batch, or None if the framework does not report it.
    """

    epoch: int
    nb_epochs: int
    batch: int
    nb_batches: int
    loss: float | None


_PRINTED_EVERY_S = 1.0
"""Interval of printed progress in fits with an unknown number of batches."""

OnProgress: TypeAlias = "Callable[[Progress], None] | None"


def fit_rows(connection: Connection, opened: pb.FitOpen, x: Array, y: Array, on_progress: OnProgress, verbose: bool) -> str:
    """Fits on arrays of rows and labels, and returns the model's new version."""
    try:
        outgoing = messages(open_field(opened.SerializeToString()), (("y", y), ("x", x)))
    except WireError as e:
        raise error_of_wire(e) from None
    return _fit(connection, opened.call.model, _Outgoing(outgoing), on_progress, verbose)


def fit_batches(
    connection: Connection, opened: pb.FitOpen, batches: Iterable[tuple[Array, Array]], on_progress: OnProgress, verbose: bool
) -> str:
    """Fits on batches as they are made, and returns the model's new version."""

    def outgoing() -> Iterator[bytes]:
        opening = open_field(opened.SerializeToString())
        for x, y in batches:
            yield from messages(opening, (("y", y), ("x", x)))
            opening = b""
        yield opening + pb.FitRequest(end=True).SerializeToString()

    return _fit(connection, opened.call.model, _Outgoing(outgoing()), on_progress, verbose)


def batches_of(generator: Any, nb_epochs: int) -> Iterator[tuple[Any, Any]]:
    """Yields the batches of an ART ``DataGenerator``, or of an iterable once per epoch. Raises InvalidCall."""
    if callable(getattr(generator, "get_batch", None)):
        for _ in range(nb_epochs * int(generator.size / generator.batch_size)):
            yield generator.get_batch()
        return
    if nb_epochs > 1 and iter(generator) is generator:
        raise InvalidCall("an iterator yields its batches only once; pass a list or another iterable, or nb_epochs=1")
    for _ in range(nb_epochs):
        yield from generator


class _Outgoing(Iterator[bytes]):
    """Messages made on gRPC's thread. An error there ends the stream and is raised in the caller's thread."""

    def __init__(self, made: Iterator[bytes]) -> None:
        self._made = made
        self.stream: Stream | None = None
        self.error: BaseException | None = None

    def __next__(self) -> bytes:
        try:
            return next(self._made)
        except StopIteration:
            raise
        except BaseException as e:  # a generator may raise anything, GeneratorExit included
            self.error = e
            assert self.stream is not None
            self.stream.cancel()
            raise StopIteration from None


def _fit(connection: Connection, model: str, outgoing: _Outgoing, on_progress: OnProgress, verbose: bool) -> str:
    stream = outgoing.stream = connection.open_grpc_stream("Fit", model)
    connection.watch(stream)
    report = _Report(on_progress, verbose)
    try:
        stream.send(outgoing)
        while not (answer := parsed(stream.receive(), pb.FitResponse)).version:
            report(answer.progress)
    except grpc.RpcError as e:
        if outgoing.error is not None:
            raise outgoing.error from None
        raise connection.error_on(stream, e) from None
    except WireError as e:
        stream.cancel()
        raise error_of_wire(e) from None
    except Exception:
        # The caller's own error, from on_progress: the server rolls the fit back.
        stream.cancel()
        raise
    except BaseException:
        connection.interrupted(stream)
        raise
    else:
        stream.close()
        return str(answer.version)
    finally:
        connection.unwatch(stream)


class _Report:
    """Reports the progress of a fit to the caller, and prints it if asked."""

    def __init__(self, on_progress: OnProgress, verbose: bool) -> None:
        self._on_progress = on_progress
        self._verbose = verbose
        self._began_s = time.monotonic()
        self._printed_s = float("-inf")

    def __call__(self, message: pb.FitProgress) -> None:
        progress = Progress(
            message.epoch,
            message.nb_epochs,
            message.batch,
            message.nb_batches,
            message.loss if message.HasField("loss") else None,
        )
        if self._on_progress is not None:
            self._on_progress(progress)
        if self._verbose and self._due(progress):
            self._printed_s = time.monotonic()
            # With batches that come one by one, the number per epoch is unknown.
            done = f"epoch {progress.epoch}/{progress.nb_epochs}" if progress.nb_batches else f"batch {progress.batch}"
            loss = "" if progress.loss is None else f", loss {progress.loss:.4f}"
            print(f"{done}{loss}, {self._printed_s - self._began_s:.1f} s", file=sys.stderr)

    def _due(self, progress: Progress) -> bool:
        if progress.nb_batches:
            return progress.batch == progress.nb_batches
        return time.monotonic() - self._printed_s >= _PRINTED_EVERY_S
