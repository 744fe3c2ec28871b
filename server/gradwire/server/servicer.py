"""Translates streams of messages into work on row blocks, and results into messages. No arithmetic.

A call that fits one message is computed as one block and answered in one message. A large one is computed block by
block while its rows arrive, so that a million rows cost the server a few blocks of memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Any

import grpc

from gradwire.backends.backend import Array
from gradwire.backends.errors import InvalidValue, ModelFailed
from gradwire.server.calls import IncomingTensors, parse
from gradwire.server.catalogue import Catalogue, Served
from gradwire.server.config import Limits
from gradwire.server.operations import OPERATIONS, Plan, RowOperation, loss_of_predictions
from gradwire.server.scheduler import Scheduler, Ticket
from gradwire.server.streams import OpenStream, OpenStreams
from gradwire.server.usage import Charge, Rows
from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_FRAME, ERROR_REASON_TOO_LARGE
from gradwire.wire.errors import WireError
from gradwire.wire.frames import Chunk, first_message, header_message
from gradwire.wire.tensors import elements, raw

SERVICE = "gradwire.v1.EstimatorService"

MAX_REQUEST_ID = 128
"""Characters; ids are remembered."""

_BLOCKS_UNDER_WAY = 2
"""Row blocks of one call that are queued or computed while the next one arrives: one on the device, one behind it."""


class RowServicer:
    """Serves the operations on rows.

    Args:
        catalogue: What is served.
        scheduler: Where work goes.
        streams: Where open streams are kept.
        limits: What is taken from callers.
    """

    def __init__(self, catalogue: Catalogue, scheduler: Scheduler, streams: OpenStreams, limits: Limits) -> None:
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._streams = streams
        self._limits = limits

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """gRPC handlers by method. Messages pass as bytes: chunks are framed by hand."""
        return {operation.method: grpc.stream_stream_rpc_method_handler(self._stream(operation)) for operation in OPERATIONS}

    def _stream(self, operation: RowOperation) -> Any:
        async def serve(_: Any, context: Any) -> None:
            await self._streams.serve(context, partial(self._call, operation))

        return serve

    async def _call(self, operation: RowOperation, stream: OpenStream, message: bytes | Chunk) -> None:
        request = parse(message, operation.request)
        if not request.HasField("open"):
            raise WireError(ERROR_REASON_BAD_FRAME, f"a {operation.method} call begins with a message that holds open; got another")
        opened = request.open
        served = self._catalogue.get(opened.call.model)
        served.allow(operation.operation)
        if len(opened.call.request_id) > MAX_REQUEST_ID:
            raise InvalidValue(f"request_id has {len(opened.call.request_id)} characters; expected at most {MAX_REQUEST_ID}")
        if opened.call.result_codec:
            raise InvalidValue(f"result_codec number {opened.call.result_codec} is not among the card's codecs; leave it out")
        timer = stream.end_after(opened.call.timeout_s) if opened.call.timeout_s > 0 else None
        try:
            with self._scheduler.admit(served.model, stream.peer) as ticket:
                tensors = IncomingTensors(request, operation.request, stream.read, self._limits.max_tensor_bytes)
                await self._compute(operation, served, opened, tensors, ticket, stream)
        finally:
            if timer is not None:
                timer.cancel()

    async def _compute(
        self, operation: RowOperation, served: Served, opened: Any, tensors: IncomingTensors, ticket: Ticket, stream: OpenStream
    ) -> None:
        specs = tensors.specs
        operation.check_names(tuple(spec.name for spec in specs))
        of_predictions = specs[-1].name == "predictions"
        rows = (
            served.estimator.check_predictions(specs[-1].shape)
            if of_predictions
            else served.estimator.check_rows(specs[-1].shape, specs[-1].dtype)
        )
        held = {spec.name: await tensors.whole(index, self._limits.max_held_bytes) for index, spec in enumerate(specs[:-1])}
        plan = operation.prepare(served, opened, rows, held)
        if of_predictions:
            plan = loss_of_predictions(plan, served.estimator)
        block_rows = self._block_rows(served, opened.options.batch_size, specs[-1].row_nbytes, plan.outputs_per_row)
        charge = served.counter.charge(opened.call.request_id, Rows(plan.cost.forward * rows, plan.cost.backward * rows))
        try:
            if rows <= block_rows:
                await self._one_block(plan, served, tensors, ticket, charge, stream)
            else:
                await self._many_blocks(plan, served, tensors, rows, block_rows, ticket, charge, stream)
        finally:
            charge.refund()

    def _block_rows(self, served: Served, batch_size: int, row_nbytes: int, outputs_per_row: int) -> int:
        if batch_size < 0:
            raise InvalidValue(f"batch_size is {batch_size}; expected at least 1, or 0 for the server's choice")
        if row_nbytes > self._limits.max_held_bytes:
            limit = self._limits.max_held_bytes
            raise WireError(ERROR_REASON_TOO_LARGE, f"a row has {row_nbytes} bytes; the limit max_held_bytes is {limit}")
        most = max(1, self._limits.max_held_bytes // max(1, row_nbytes * outputs_per_row))
        return min(batch_size or most, served.estimator.config.max_batch_rows, most)

    async def _one_block(
        self,
        plan: Plan,
        served: Served,
        tensors: IncomingTensors,
        ticket: Ticket,
        charge: Charge,
        stream: OpenStream,
    ) -> None:
        block = await tensors.whole(len(tensors.specs) - 1, 0)
        run = ticket.submit if served.estimator.model.may_wait else ticket.run_alone
        result = await run(plan.function, plan.rows(block, 0, whole=True), plan.options)
        charge.add_computed(_cost(plan, len(block)))
        if plan.reduce is not None:
            result = plan.reduce([result], await _divisor(plan, served, ticket))
        await _write(stream, result)

    async def _many_blocks(
        self,
        plan: Plan,
        served: Served,
        tensors: IncomingTensors,
        rows: int,
        block_rows: int,
        ticket: Ticket,
        charge: Charge,
        stream: OpenStream,
    ) -> None:
        divisor = await _divisor(plan, served, ticket)
        if plan.mean_over is not None and plan.reduce is None:
            plan.options["divisor"] = divisor
        writer = ResultWriter(stream, rows)
        reduced: list[Array] = []
        under_way: deque[tuple[asyncio.Future[Any], int]] = deque()

        async def finish_one() -> None:
            future, size = under_way[0]
            result = await future
            under_way.popleft()
            charge.add_computed(_cost(plan, size))
            if plan.reduce is None:
                await writer.write(result)
            else:
                reduced.append(result)

        begin = 0
        try:
            async for block in tensors.blocks(len(tensors.specs) - 1, block_rows):
                while len(under_way) >= _BLOCKS_UNDER_WAY or (under_way and under_way[0][0].done()):
                    await finish_one()
                under_way.append((ticket.submit(plan.function, plan.rows(block, begin, whole=False), plan.options), len(block)))
                begin += len(block)
            while under_way:
                await finish_one()
        finally:
            for future, _ in under_way:
                future.cancel()
        if plan.reduce is not None:
            await _write(stream, plan.reduce(reduced, divisor))


class ResultWriter:
    """Sends the results of row blocks as one tensor, as they are ready.

    Args:
        stream: Where they go.
        rows: Of the whole call.
    """

    def __init__(self, stream: OpenStream, rows: int) -> None:
        self._stream = stream
        self._rows = rows
        self._row_shape: tuple[int, ...] | None = None
        self._sent = 0

    async def write(self, block: Array) -> None:
        """Sends one block. Raises ModelFailed if its rows have another shape than those before."""
        block, value = elements(block)
        if self._row_shape is None:
            self._row_shape = block.shape[1:]
            nbytes = block.nbytes // len(block) * self._rows
            await self._stream.write(header_message("result", value, (self._rows, *self._row_shape), nbytes))
        elif block.shape[1:] != self._row_shape:
            raise ModelFailed(
                f"the model answered row blocks in shapes {self._row_shape} and {block.shape[1:]}; expected one shape"
            )
        await self._stream.write_data(raw(block), self._sent)
        self._sent += block.nbytes


async def _write(stream: OpenStream, result: Array) -> None:
    first, chunked = first_message(b"", [("result", result)])
    await stream.write(first)
    for data in chunked:
        await stream.write_data(data)


def _cost(plan: Plan, rows: int) -> Rows:
    return Rows(plan.cost.forward * rows, plan.cost.backward * rows)


async def _divisor(plan: Plan, served: Served, ticket: Ticket) -> float:
    if plan.mean_over is None:
        return 1.0
    return float(await ticket.run(served.estimator.loss_divisor, {"y": plan.mean_over}))
