"""Translates streams of messages into work on row blocks, and results into messages. No arithmetic.

A call that fits one message is computed as one block and answered in one message. A large one is computed block by
block while its rows arrive, so that a million rows cost the server a few blocks of memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc

from gradwire.backends.backend import Array
from gradwire.backends.errors import BackendError, InvalidValue, ModelFailed
from gradwire.server.catalogue.catalogue import Catalogue
from gradwire.server.catalogue.granted import Granted
from gradwire.server.config.limits import Limits
from gradwire.server.errors import Hung
from gradwire.server.scheduling.merging import likeness
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.scheduling.tickets import Ticket
from gradwire.server.scheduling.work import Likeness
from gradwire.server.services.operations import OPERATIONS, Plan, RowOperation, loss_of_predictions
from gradwire.server.services.results import ResultWriter, _write
from gradwire.server.transport.calls import IncomingTensors, check_call_rows, check_request_id, parse
from gradwire.server.transport.codecs import check_result_codec
from gradwire.server.transport.streams import OpenStream, OpenStreams
from gradwire.server.trust.budgets.charges import Charge
from gradwire.server.trust.budgets.fingerprint import fingerprint
from gradwire.server.trust.recorder import CallRecorder, Entry
from gradwire.server.values.rows import Rows
from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_FRAME, ERROR_REASON_TOO_LARGE
from gradwire.wire.errors import WireError
from gradwire.wire.frames import Chunk

SERVICE = "gradwire.v1.EstimatorService"

_BLOCK_NBYTES = 32 << 20
"""Of rows, or of their results: a call of more is computed while it arrives, in blocks of about one size. What blocks it is cut
into depends on nothing else, and they are not computed as one: a call that is made again gets the same answer to the last bit."""

_BLOCKS_BEHIND = 1
"""Row blocks of one call that are queued behind those on the device, or on all its replicas, while the next one arrives."""

_MARKED_HERE_NBYTES = 1 << 20
"""Of a block's rows: the fingerprint of more takes more than a millisecond, in which the loop reads and answers others."""

_SENT_AGAIN = InvalidValue("the call's request_id was sent again while it was under way; this attempt has given way to that one")


class RowServicer:
    """Serves the operations on rows.

    Args:
        catalogue: What is served.
        scheduler: Where work goes.
        streams: Where open streams are kept.
        limits: What is taken from callers.
        ledger: Where calls are written down.
    """

    def __init__(
        self, catalogue: Catalogue, scheduler: Scheduler, streams: OpenStreams, limits: Limits, ledger: CallRecorder
    ) -> None:
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._streams = streams
        self._limits = limits
        self._ledger = ledger

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """gRPC handlers by method. Messages pass as bytes: chunks are framed by hand."""
        return {operation.method: grpc.stream_stream_rpc_method_handler(self._stream(operation)) for operation in OPERATIONS}

    def _stream(self, operation: RowOperation) -> Any:
        async def serve(_: Any, context: Any) -> None:
            await self._streams.serve(context, partial(self._call, operation))

        return serve

    async def _call(self, operation: RowOperation, stream: OpenStream, message: bytes | Chunk) -> None:
        with self._ledger.entry(stream.principal, operation.operation.value, stream) as entry:
            await self._answer(operation, stream, message, entry)

    async def _answer(self, operation: RowOperation, stream: OpenStream, message: bytes | Chunk, entry: Entry) -> None:
        request = parse(message, operation.request)
        if not request.HasField("open"):
            raise WireError(ERROR_REASON_BAD_FRAME, f"a {operation.method} call begins with a message that holds open; got another")
        opened = request.open
        check_request_id(opened.call.request_id)
        entry.opened(opened.call)
        entry.granted = granted = self._catalogue.get(opened.call.model, stream.principal)
        granted.allow(operation.operation)
        check_result_codec(operation.operation, opened.call.result_codec)
        timer = stream.end_after(opened.call.timeout_s)
        try:
            with self._scheduler.admit(granted.model, stream.queue) as ticket:
                ticket.trace = entry.trace
                tensors = IncomingTensors(request, operation.request, stream.read, self._limits.max_tensor_bytes)
                await self._compute(operation, granted, opened, tensors, ticket, stream, entry)
        except ModelFailed as e:
            if granted.white_box:
                raise
            # What the owner's code says of its own failure tells of what is inside: sizes of layers, for example.
            raise ModelFailed(f"the model failed in {operation.operation.value}; the server's log says why") from e
        finally:
            if timer is not None:
                timer.cancel()

    async def _compute(
        self,
        operation: RowOperation,
        granted: Granted,
        opened: Any,
        tensors: IncomingTensors,
        ticket: Ticket,
        stream: OpenStream,
        entry: Entry,
    ) -> None:
        specs, estimator = tensors.specs, granted.estimator
        operation.check_names(tuple(spec.name for spec in specs))
        of_predictions = specs[-1].name == "predictions"
        rows = (
            estimator.check_predictions(specs[-1].shape)
            if of_predictions
            else estimator.check_rows(specs[-1].shape, specs[-1].dtype)
        )
        check_call_rows(rows, self._limits.max_rows)
        entry.rows = rows
        held = {spec.name: await tensors.whole(index, self._limits.max_held_bytes) for index, spec in enumerate(specs[:-1])}
        plan = operation.prepare(granted, opened, rows, held)
        if of_predictions:
            plan = loss_of_predictions(plan, estimator)
        plan.result_codec = opened.call.result_codec
        most_rows = self._most_rows(granted, opened.options.batch_size, specs[-1].row_nbytes, plan.outputs_per_row)
        blocks = -(-rows * specs[-1].row_nbytes * plan.outputs_per_row // _BLOCK_NBYTES)
        block_rows = min(most_rows, -(-rows // max(1, blocks)))
        header = opened.call
        budget, again, cost = granted.grant.budget, header.attempt > 1, plan.costs(rows)
        charge = Charge(granted.charges, budget, header.request_id, again, cost, partial(stream.end, _SENT_AGAIN, stuck=True))
        call = _Call(plan, granted, tensors, ticket, charge, stream, b"")
        try:
            async with charge:
                if charge.binding:
                    call.asked = _asked(operation, granted, opened) + charge.round
                if rows <= block_rows:
                    await self._one_block(call, most_rows)
                else:
                    await self._many_blocks(call, rows, block_rows, most_rows)
        finally:
            entry.charged = charge.charged
            if charge.binding and header.request_id:
                entry.paid, entry.lease = charge.paid, charge.lease

    def _most_rows(self, granted: Granted, batch_size: int, row_nbytes: int, outputs_per_row: int) -> int:
        if batch_size < 0:
            raise InvalidValue(f"batch_size is {batch_size}; expected at least 1, or 0 for the server's choice")
        if row_nbytes > self._limits.max_held_bytes:
            limit = self._limits.max_held_bytes
            raise WireError(ERROR_REASON_TOO_LARGE, f"a row has {row_nbytes} bytes; the limit max_held_bytes is {limit}")
        most = max(1, self._limits.max_held_bytes // max(1, row_nbytes * outputs_per_row))
        return min(batch_size or most, granted.estimator.config.max_batch_rows, most)

    async def _one_block(self, call: _Call, most_rows: int) -> None:
        plan = call.plan
        block = await call.tensors.whole(len(call.tensors.specs) - 1, 0)
        arguments = plan.rows(block, 0, whole=True)
        like = likeness(call.granted.estimator, plan.function, arguments, plan.options, most_rows)
        cost, mark = plan.costs(len(block)), await call.mark(0, arguments)
        await call.charge.begin(cost, mark)
        try:
            result = await call.ticket.run_block(plan.function, arguments, plan.options, like, call.stream)
        except asyncio.CancelledError as e:
            if not call.ticket.waiting and not call.failed_by_model(e):
                call.charge.computed(cost, mark)
            raise
        call.charge.computed(cost, mark)
        if plan.reduce is not None:
            result = plan.reduce([result], await call.divisor())
        await _write(call.stream, plan.finish(result), plan.result_codec)

    async def _many_blocks(self, call: _Call, rows: int, block_rows: int, most_rows: int) -> None:
        plan = call.plan
        divisor = await call.divisor()
        if "divisor" in plan.options:
            plan.options["divisor"] = divisor
        writer = ResultWriter(call.stream, rows, plan.result_codec)
        reduced: list[Array] = []
        under_way: deque[tuple[asyncio.Future[Any], Rows, bytes]] = deque()
        like: Likeness | None = None

        async def finish_one() -> None:
            future, cost, mark = under_way[0]
            result = await future
            under_way.popleft()
            call.charge.computed(cost, mark)
            if plan.reduce is None:
                await writer.write(plan.finish(result))
            else:
                reduced.append(result)

        begin, most_under_way = 0, self._scheduler.places(call.granted.model) + _BLOCKS_BEHIND
        try:
            async for block in call.tensors.blocks(len(call.tensors.specs) - 1, block_rows):
                while len(under_way) >= most_under_way or (under_way and under_way[0][0].done()):
                    await finish_one()
                arguments = plan.rows(block, begin, whole=False)
                like = like or likeness(call.granted.estimator, plan.function, arguments, plan.options, most_rows)
                cost, mark = plan.costs(len(block)), await call.mark(begin, arguments)
                await call.charge.begin(cost, mark)
                under_way.append((call.ticket.submit(plan.function, arguments, plan.options, like), cost, mark))
                begin += len(block)
            while under_way:
                await finish_one()
        except BaseException as e:
            # What has been done is used, and what the device is at too, unless the model is why the call ends. What waits is not.
            waiting = {work.done for work in call.ticket.waiting}
            for future, cost, mark in under_way:
                given_up = call.failed_by_model(e) and not future.done()
                if not given_up and future not in waiting and not _has_failed(future):
                    call.charge.computed(cost, mark)
            raise
        finally:
            for future, _, _ in under_way:
                future.cancel()
        if plan.reduce is None:
            await writer.end()
        else:
            await _write(call.stream, plan.reduce(reduced, divisor), plan.result_codec)


@dataclass
class _Call:
    """What a call's row blocks have in common.

    Attributes:
        asked: The model, its version and all that was asked but for the rows, where blocks must be told apart by it.
    """

    plan: Plan
    granted: Granted
    tensors: IncomingTensors
    ticket: Ticket
    charge: Charge
    stream: OpenStream
    asked: bytes

    def failed_by_model(self, error: BaseException) -> bool:
        """Whether the model is why the call ends, and not who called."""
        return isinstance(error, BackendError) or isinstance(self.stream.reason, Hung)

    async def mark(self, begin: int, rows: Mapping[str, Array]) -> bytes:
        """What the block at ``begin`` is charged under."""
        if not self.asked:
            return begin.to_bytes(8, "little")
        if sum(array.nbytes for array in rows.values()) <= _MARKED_HERE_NBYTES:
            return fingerprint(self.asked, begin, rows)
        return await asyncio.to_thread(fingerprint, self.asked, begin, rows)

    async def divisor(self) -> float:
        """What a mean over the call's rows divides by."""
        if self.plan.mean_over is None:
            return 1.0
        return float(await self.ticket.run(self.granted.estimator.loss_divisor, {"y": self.plan.mean_over}))


def _has_failed(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is not None


def _asked(operation: RowOperation, granted: Granted, opened: Any) -> bytes:
    """A call without what differs between attempts at it, and with what its answer depends on besides."""
    options = type(opened)()
    options.CopyFrom(opened)
    options.ClearField("call")
    about = repr((granted.model, granted.estimator.version, operation.method)).encode()
    return about + bytes(options.SerializeToString(deterministic=True))
