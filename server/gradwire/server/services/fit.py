"""Fit over a stream: training data arrives, progress is answered, and the call has an exclusive lock on the model.

A fit is a transaction. If anything ends it early (an error, a cancel, a lost client, a shutdown of the server), the model
is restored.
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
from gradwire.server.config.limits import Limits
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.scheduling.work import Call
from gradwire.server.services.admission import Admission, AdmittedCall
from gradwire.server.transport.calls import IncomingTensors, check_call_rows, parse
from gradwire.server.transport.spool import spooled
from gradwire.server.transport.streams import OpenStream, OpenStreams
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_FRAME
from gradwire.wire.errors import WireError
from gradwire.wire.frames import Chunk

log = logging.getLogger("gradwire.server")

_PROGRESS_EVERY_S = 0.1


def _needed(opened: pb.FitOpen) -> Operation:
    return Operation.FIT_BATCHES if opened.batches else Operation.FIT


class FitServicer:
    """Serves Fit.

    Args:
        admission: Admits calls.
        scheduler: Gives exclusive locks and computes steps.
        streams: Open streams.
        limits: Limits on callers.
        spool_dir: Folder for training data beyond memory; None: the system's temporary folder.
    """

    def __init__(
        self, admission: Admission, scheduler: Scheduler, streams: OpenStreams, limits: Limits, spool_dir: Path | None
    ) -> None:
        self._admission = admission
        self._scheduler = scheduler
        self._streams = streams
        self._limits = limits
        self._spool_dir = spool_dir

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Handlers of gRPC, by method; messages pass as bytes."""
        return {"Fit": grpc.stream_stream_rpc_method_handler(self._stream)}

    async def _stream(self, _: Any, context: Any) -> None:
        await self._streams.serve(context, self._serve)

    async def _serve(self, stream: OpenStream, message: bytes | Chunk) -> None:
        with self._admission.admitted(stream, message, pb.FitRequest, Operation.FIT, _needed) as call:
            opened, admitted = call.request.open, call.admitted
            if opened.batch_size < 0 or opened.nb_epochs < 0:
                raise InvalidValue(f"batch_size {opened.batch_size}, nb_epochs {opened.nb_epochs}; expected at least 1 each")
            if opened.batches:
                await self._fit_batches(call)
            else:
                await self._fit(call)
            extra = {"model": admitted.name, "version": admitted.estimator.version, "peer": stream.peer}
            log.info("fitted", extra=extra)
            # A client that does not read its answer keeps neither the model nor a place in the scheduler.
            call.scheduled.leave()
            await stream.write(pb.FitResponse(version=admitted.estimator.version).SerializeToString())

    async def _fit(self, call: AdmittedCall) -> None:
        estimator, opened = call.admitted.estimator, call.request.open
        x, y = await self._data(estimator, call.request, call.stream, self._limits.fit_memory_bytes)
        call.entry.rows = len(x)
        options = FitOptions(
            batch_size=opened.batch_size or FitOptions.batch_size,
            nb_epochs=opened.nb_epochs or FitOptions.nb_epochs,
            drop_last=opened.drop_last,
            training_mode=not opened.inference_mode,
            seed=opened.seed if opened.HasField("seed") else None,
        )
        scheduled = call.scheduled
        await self._scheduler.lock(scheduled)
        steps = await scheduled.run(estimator.fit, x=x, y=y, options=options)
        progress = ProgressWriter(call.stream)
        async with _Rollback(steps, scheduled):
            while (done := await scheduled.run(partial(next, steps, None))) is not None:
                await progress.write(done)

    async def _fit_batches(self, call: AdmittedCall) -> None:
        request, scheduled, estimator = call.request, call.scheduled, call.admitted.estimator
        await self._scheduler.lock(scheduled)
        batches = _Handed()
        steps = estimator.fit_batches(batches, training_mode=not request.open.inference_mode)
        progress = ProgressWriter(call.stream)
        async with _Rollback(steps, scheduled):
            while not request.end:
                if request.tensors:
                    # A batch is held like any block: it has to fit in memory at once.
                    batches.next = await self._data(estimator, request, call.stream, self._limits.max_held_bytes)
                    call.entry.rows += len(batches.next[0])
                    await progress.write(await scheduled.run(partial(next, steps)))
                message = await call.stream.read_next()
                if message is None:
                    raise WireError(ERROR_REASON_BAD_FRAME, "the stream ended without the message that ends the batches")
                request = parse(message, pb.FitRequest)
            await scheduled.run(partial(next, steps, None))

    async def _data(self, estimator: Estimator, request: Any, stream: OpenStream, memory_nbytes: int) -> tuple[Array, Array]:
        """Reads rows and labels of one message. Rows over ``memory_nbytes`` are spooled to disk."""
        tensors = IncomingTensors(request, pb.FitRequest, stream.read, self._limits.max_tensor_bytes)
        if tensors.names != ("y", "x"):
            raise WireError(ERROR_REASON_BAD_FRAME, f"Fit got tensors ({', '.join(tensors.names)}); expected (y, x) in this order")
        spec = tensors.specs[1]
        rows = estimator.check_rows(spec.shape, spec.dtype)
        check_call_rows(rows, self._limits.max_rows)
        y = estimator.prepare_labels(await tensors.whole(0, self._limits.max_held_bytes), rows)
        x = await tensors.whole(1, 0, into=spooled(spec.shape, spec.dtype, memory_nbytes, self._spool_dir))
        return x, y


class ProgressWriter:
    """Sends progress, at most ten times a second."""

    def __init__(self, stream: OpenStream) -> None:
        self._stream = stream
        self._sent_s = float("-inf")

    async def write(self, done: FitProgress) -> None:
        """Sends one step's progress, unless another was sent a moment ago; the last of an epoch always."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._sent_s < _PROGRESS_EVERY_S and done.batch != done.nb_batches:
            return
        self._sent_s = now_s
        progress = pb.FitProgress(epoch=done.epoch, nb_epochs=done.nb_epochs, batch=done.batch, nb_batches=done.nb_batches)
        if done.loss is not None:
            progress.loss = done.loss
        await self._stream.write(pb.FitResponse(progress=progress).SerializeToString())


class _Handed(Iterator[tuple[Array, Array]]):
    """Iterator over batches that are set one at a time, each before it is requested; it ends where none is set."""

    def __init__(self) -> None:
        self.next: tuple[Array, Array] | None = None

    def __next__(self) -> tuple[Array, Array]:
        batch, self.next = self.next, None
        if batch is None:
            raise StopIteration
        return batch


class _Rollback:
    """Closes a fit's steps on the device if the call ends early, and waits for that through further cancels."""

    def __init__(self, steps: Iterator[FitProgress], call: Call) -> None:
        self._steps = steps
        self._call = call

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        closed = self._call.submit(self._steps.close, {}, {})  # type: ignore[attr-defined]
        while not closed.done():
            try:
                await asyncio.shield(closed)
            except asyncio.CancelledError:
                continue
