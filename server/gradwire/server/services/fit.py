"""Fit over a stream: training data comes in, progress goes out, and the model is held for the call alone.

A fit is one transaction: whatever ends it early (an error, a cancel, a lost client, the end of the server), the model
is what it was before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from gradwire.backends.backend import Array
from gradwire.backends.capabilities import Operation
from gradwire.backends.errors import InvalidValue
from gradwire.backends.estimator import Estimator
from gradwire.backends.training import FitOptions, FitProgress
from gradwire.server.catalogue.catalogue import Catalogue
from gradwire.server.catalogue.granted import Granted
from gradwire.server.config.limits import Limits
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.scheduling.tickets import Ticket
from gradwire.server.transport.calls import IncomingTensors, check_call_rows, check_request_id, parse
from gradwire.server.transport.codecs import check_result_codec
from gradwire.server.transport.spool import spooled
from gradwire.server.transport.streams import OpenStream, OpenStreams
from gradwire.server.trust.recorder import CallRecorder, Entry
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_FRAME
from gradwire.wire.errors import WireError
from gradwire.wire.frames import Chunk

log = logging.getLogger("gradwire.server")

_PROGRESS_EVERY_S = 0.1


class FitServicer:
    """Serves Fit.

    Args:
        catalogue: What is served.
        scheduler: Where work goes.
        streams: Where open streams are kept.
        limits: What is taken from callers.
        spool_dir: Where training data beyond memory goes.
        ledger: Where calls are written down.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        scheduler: Scheduler,
        streams: OpenStreams,
        limits: Limits,
        spool_dir: Path | None,
        ledger: CallRecorder,
    ) -> None:
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._streams = streams
        self._limits = limits
        self._spool_dir = spool_dir
        self._ledger = ledger

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """gRPC handlers by method; messages pass as bytes."""
        return {"Fit": grpc.stream_stream_rpc_method_handler(self._stream)}

    async def _stream(self, _: Any, context: Any) -> None:
        await self._streams.serve(context, self._call)

    async def _call(self, stream: OpenStream, message: bytes | Chunk) -> None:
        with self._ledger.entry(stream.principal, Operation.FIT.value, stream) as entry:
            await self._answer(stream, message, entry)

    async def _answer(self, stream: OpenStream, message: bytes | Chunk, entry: Entry) -> None:
        request = parse(message, pb.FitRequest)
        if not request.HasField("open"):
            raise WireError(ERROR_REASON_BAD_FRAME, "a Fit call begins with a message that holds open; got another")
        opened: pb.FitOpen = request.open
        check_request_id(opened.call.request_id)
        entry.opened(opened.call)
        entry.granted = granted = self._catalogue.get(opened.call.model, stream.principal)
        operation = Operation.FIT_BATCHES if opened.batches else Operation.FIT
        granted.allow(operation)
        check_result_codec(operation, opened.call.result_codec)
        if opened.batch_size < 0 or opened.nb_epochs < 0:
            raise InvalidValue(f"batch_size {opened.batch_size}, nb_epochs {opened.nb_epochs}; expected at least 1 each")
        timer = stream.end_after(opened.call.timeout_s)
        try:
            with self._scheduler.admit(granted.model, stream.queue) as ticket:
                ticket.trace = entry.trace
                if opened.batches:
                    await self._fit_batches(granted, request, ticket, stream, entry)
                else:
                    await self._fit(granted, request, ticket, stream, entry)
        finally:
            if timer is not None:
                timer.cancel()
        log.info("fitted", extra={"model": granted.name, "version": granted.estimator.version, "peer": stream.peer})
        await stream.write(pb.FitResponse(version=granted.estimator.version).SerializeToString())

    async def _fit(self, granted: Granted, request: Any, ticket: Ticket, stream: OpenStream, entry: Entry) -> None:
        x, y = await self._data(granted.estimator, request, stream, self._limits.fit_memory_bytes)
        entry.rows = len(x)
        opened = request.open
        options = FitOptions(
            batch_size=opened.batch_size or FitOptions.batch_size,
            nb_epochs=opened.nb_epochs or FitOptions.nb_epochs,
            drop_last=opened.drop_last,
            training_mode=not opened.inference_mode,
            seed=opened.seed if opened.HasField("seed") else None,
        )
        await self._scheduler.hold(ticket)
        steps = await ticket.run(granted.estimator.fit, x=x, y=y, options=options)
        progress = ProgressWriter(stream)
        async with _Rollback(steps, ticket):
            while (done := await ticket.run(partial(next, steps, None))) is not None:
                await progress.write(done)

    async def _fit_batches(self, granted: Granted, request: Any, ticket: Ticket, stream: OpenStream, entry: Entry) -> None:
        await self._scheduler.hold(ticket)
        batches = _Handed()
        steps = granted.estimator.fit_batches(batches, training_mode=not request.open.inference_mode)
        progress = ProgressWriter(stream)
        async with _Rollback(steps, ticket):
            while not request.end:
                if request.tensors:
                    # A batch is held like any block: it has to fit in memory at once.
                    batches.next = await self._data(granted.estimator, request, stream, self._limits.max_held_bytes)
                    entry.rows += len(batches.next[0])
                    await progress.write(await ticket.run(partial(next, steps)))
                message = await stream.read_next()
                if message is None:
                    raise WireError(ERROR_REASON_BAD_FRAME, "the stream ended without the message that ends the batches")
                request = parse(message, pb.FitRequest)
            await ticket.run(partial(next, steps, None))

    async def _data(self, estimator: Estimator, request: Any, stream: OpenStream, memory_nbytes: int) -> tuple[Array, Array]:
        """Rows and labels of one message. Rows over ``memory_nbytes`` are spooled to disk."""
        tensors = IncomingTensors(request, pb.FitRequest, stream.read, self._limits.max_tensor_bytes)
        names = tuple(spec.name for spec in tensors.specs)
        if names != ("y", "x"):
            raise WireError(ERROR_REASON_BAD_FRAME, f"Fit got tensors ({', '.join(names)}); expected (y, x) in this order")
        spec = tensors.specs[1]
        rows = estimator.check_rows(spec.shape, spec.dtype)
        check_call_rows(rows, self._limits.max_rows)
        y = estimator.prepare_labels(await tensors.whole(0, self._limits.max_held_bytes), rows)
        x = await tensors.whole(1, 0, into=spooled(spec.shape, spec.dtype, memory_nbytes, self._spool_dir))
        return x, y


class ProgressWriter:
    """Sends progress, but not more often than a person can read it."""

    def __init__(self, stream: OpenStream) -> None:
        self._stream = stream
        self._sent_s = float("-inf")

    async def write(self, done: FitProgress) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._sent_s < _PROGRESS_EVERY_S and done.batch != done.nb_batches:
            return
        self._sent_s = now_s
        progress = pb.FitProgress(epoch=done.epoch, nb_epochs=done.nb_epochs, batch=done.batch, nb_batches=done.nb_batches)
        if done.loss is not None:
            progress.loss = done.loss
        await self._stream.write(pb.FitResponse(progress=progress).SerializeToString())


class _Handed(Iterator[tuple[Array, Array]]):
    """Batches that are handed over one at a time, each before it is asked for; without one, the end."""

    def __init__(self) -> None:
        self.next: tuple[Array, Array] | None = None

    def __next__(self) -> tuple[Array, Array]:
        batch, self.next = self.next, None
        if batch is None:
            raise StopIteration
        return batch


class _Rollback:
    """Closes a fit's steps, on the device, if its call ends early, and waits for it whatever happens meanwhile."""

    def __init__(self, steps: Iterator[FitProgress], ticket: Ticket) -> None:
        self._steps = steps
        self._ticket = ticket

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        closed = self._ticket.submit(self._steps.close, {}, {})  # type: ignore[attr-defined]
        while not closed.done():
            try:
                await asyncio.shield(closed)
            except asyncio.CancelledError:
                continue
