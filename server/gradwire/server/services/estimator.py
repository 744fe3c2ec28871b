"""EstimatorService: streams of messages become work on row blocks, and results become messages. No arithmetic.

A call passes six stages, each a function called once: admit, read, plan, pay, run, answer. A call that fits one message is
one block, answered in one message. A large one is computed block by block while its rows arrive, so that a million rows cost
the server a few blocks of memory.
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
from gradwire.backends.errors import BackendError, InvalidValue
from gradwire.server.config.limits import Limits
from gradwire.server.errors import Hung
from gradwire.server.scheduling.merging import batch_key
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.scheduling.work import BatchKey
from gradwire.server.services.admission import Admission, AdmittedCall
from gradwire.server.services.operations import OPERATIONS, Plan, RowOperation, loss_of_predictions
from gradwire.server.services.results import ResultWriter, write_result
from gradwire.server.transport.calls import IncomingTensors, check_call_rows
from gradwire.server.transport.streams import OpenStream, OpenStreams
from gradwire.server.trust.budgets.charges import Charge
from gradwire.server.trust.budgets.fingerprint import fingerprint
from gradwire.server.values.rows import Rows
from gradwire.v1.errors_pb2 import ERROR_REASON_TOO_LARGE
from gradwire.wire.errors import WireError
from gradwire.wire.frames import Chunk

SERVICE = "gradwire.v1.EstimatorService"

_BLOCK_NBYTES = 32 << 20
"""Target size of a block's rows or results. Calls above it are computed while they arrive, in blocks of about one size. The
blocks depend on nothing else and never merge with each other: a repeated call gets the same answer to the last bit."""

_BLOCKS_BEHIND = 1
"""Row blocks of one call queued behind those on the device, or on all its replicas, while the next one arrives."""

_FINGERPRINT_HERE_NBYTES = 1 << 20
"""Largest rows fingerprinted on the event loop: more takes over a millisecond, in which the loop reads and answers others."""

_SENT_AGAIN = InvalidValue("the call's request_id was sent again while it was running; this attempt is replaced by that one")


class EstimatorServicer:
    """Serves the operations on rows.

    Args:
        admission: Admits calls.
        scheduler: Computes row blocks.
        streams: Open streams.
        limits: Limits on callers.
    """

    def __init__(self, admission: Admission, scheduler: Scheduler, streams: OpenStreams, limits: Limits) -> None:
        self._admission = admission
        self._scheduler = scheduler
        self._streams = streams
        self._limits = limits

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """Handlers of gRPC, by method. Messages pass as bytes: chunks are framed by hand."""
        return {operation.method: grpc.stream_stream_rpc_method_handler(self._stream(operation)) for operation in OPERATIONS}

    def _stream(self, operation: RowOperation) -> Any:
        async def serve(_: Any, context: Any) -> None:
            await self._streams.serve(context, partial(self._serve, operation))

        return serve

    async def _serve(self, operation: RowOperation, stream: OpenStream, message: bytes | Chunk) -> None:
        """Serves one call: admit, read, plan, pay, run, answer."""
        with self._admission.admitted(stream, message, operation.request, operation.operation) as call:
            given = await self._read(operation, call)
            work = self._plan(operation, call, given)
            try:
                async with work.charge:
                    if given.rows <= work.block_rows:
                        result = await self._run_block(call, work)
                        await write_result(stream, result, work.plan.result_codec)
                    else:
                        await self._run_and_answer_blocks(call, work)
            finally:
                _record(call, work.charge)

    async def _read(self, operation: RowOperation, call: AdmittedCall) -> _Given:
        """Reads the declared tensors, and all but the last one whole."""
        limits, estimator = self._limits, call.admitted.estimator
        tensors = IncomingTensors(call.request, operation.request, call.stream.read, limits.max_tensor_bytes)
        operation.check_names(tensors.names)
        spec = tensors.specs[-1]
        of_predictions = spec.name == "predictions"
        rows = estimator.check_predictions(spec.shape) if of_predictions else estimator.check_rows(spec.shape, spec.dtype)
        if limits.max_rows is not None:
            check_call_rows(rows, limits.max_rows)
        call.entry.rows = rows
        return _Given(tensors, rows, spec.nbytes // rows, of_predictions, await tensors.held(limits.max_held_bytes))

    def _plan(self, operation: RowOperation, call: AdmittedCall, given: _Given) -> _Work:
        """Plans the work on row blocks, and how many rows a block has."""
        opened, rows, row_nbytes = call.request.open, given.rows, given.row_nbytes
        plan = operation.prepare(call.admitted, opened, rows, given.held)
        if given.of_predictions:
            plan = loss_of_predictions(plan, call.admitted.estimator)
        plan.result_codec = opened.call.result_codec
        most_rows = self._most_rows(call, opened.options.batch_size, row_nbytes, plan.outputs_per_row)
        blocks = -(-rows * row_nbytes * plan.outputs_per_row // _BLOCK_NBYTES)
        header, per_row = opened.call, plan.cost
        charge = Charge(
            call.admitted.charges,
            call.admitted.grant.budget,
            header.request_id,
            header.attempt > 1,
            Rows(per_row.forward * rows, per_row.backward * rows),
            partial(call.stream.end, _SENT_AGAIN, stuck=True),
        )
        return _Work(operation, given, plan, min(most_rows, -(-rows // max(1, blocks))), most_rows, charge)

    def _most_rows(self, call: AdmittedCall, batch_size: int, row_nbytes: int, outputs_per_row: int) -> int:
        if batch_size < 0:
            raise InvalidValue(f"batch_size is {batch_size}; expected at least 1, or 0 for the server's choice")
        if row_nbytes > self._limits.max_held_bytes:
            limit = self._limits.max_held_bytes
            raise WireError(ERROR_REASON_TOO_LARGE, f"a row has {row_nbytes} bytes; the limit max_held_bytes is {limit}")
        most = max(1, self._limits.max_held_bytes // max(1, row_nbytes * outputs_per_row))
        return min(batch_size or most, call.admitted.estimator.config.max_batch_rows, most)

    async def _run_block(self, call: AdmittedCall, work: _Work) -> Array:
        """Computes a call of one block, and returns its result."""
        plan, charge, cost = work.plan, work.charge, work.charge.rows
        block = await work.given.tensors.last()
        arguments = {plan.rows_argument: block, **plan.per_row}
        key = batch_key(call.admitted.estimator, plan.function, arguments, plan.options, work.most_rows)
        mark = await work.mark(call, 0, arguments)
        if charge.binding:
            await charge.begin(cost, mark)
        try:
            result = await self._scheduler.run_block(call.scheduled, plan.function, arguments, plan.options, key, call.stream)
        except asyncio.CancelledError as e:
            if not call.scheduled.waiting and not _failed_by_model(call, e):
                charge.computed(cost, mark)
            raise
        charge.computed(cost, mark)
        if plan.reduce is not None:
            result = plan.reduce([result], await work.divisor(call))
        return result if plan.finish is None else plan.finish(result)

    async def _run_and_answer_blocks(self, call: AdmittedCall, work: _Work) -> None:
        """Computes a call block by block as its rows arrive, and answers each block when it is ready."""
        plan, charge = work.plan, work.charge
        divisor = await work.divisor(call)
        if "divisor" in plan.options:
            plan.options["divisor"] = divisor
        writer = ResultWriter(call.stream, work.given.rows, plan.result_codec)
        reduced: list[Array] = []
        under_way: deque[tuple[asyncio.Future[Any], Rows, bytes]] = deque()
        key: BatchKey | None = None

        async def finish_one() -> None:
            future, cost, mark = under_way[0]
            result = await future
            under_way.popleft()
            charge.computed(cost, mark)
            if plan.reduce is None:
                await writer.write(result if plan.finish is None else plan.finish(result))
            else:
                reduced.append(result)

        begin, most_under_way = 0, self._scheduler.concurrency(call.admitted.model) + _BLOCKS_BEHIND
        try:
            async for block in work.given.tensors.blocks(work.block_rows):
                while len(under_way) >= most_under_way or (under_way and under_way[0][0].done()):
                    await finish_one()
                end = begin + len(block)
                arguments = {plan.rows_argument: block, **{name: array[begin:end] for name, array in plan.per_row.items()}}
                if key is None:
                    key = batch_key(call.admitted.estimator, plan.function, arguments, plan.options, work.most_rows)
                cost = Rows(plan.cost.forward * len(block), plan.cost.backward * len(block))
                mark = await work.mark(call, begin, arguments)
                await charge.begin(cost, mark)
                under_way.append((call.scheduled.submit(plan.function, arguments, plan.options, key), cost, mark))
                begin = end
            while under_way:
                await finish_one()
        except BaseException as e:
            # Computed blocks, and those on the device, stay charged unless the model ended the call. Queued blocks do not.
            waiting = {queued.done for queued in call.scheduled.waiting}
            for future, cost, mark in under_way:
                given_up = _failed_by_model(call, e) and not future.done()
                if not given_up and future not in waiting and not _has_failed(future):
                    charge.computed(cost, mark)
            raise
        finally:
            for future, _, _ in under_way:
                future.cancel()
        if plan.reduce is None:
            await writer.end()
        else:
            await write_result(call.stream, plan.reduce(reduced, divisor), plan.result_codec)


@dataclass(frozen=True, eq=False)
class _Given:
    """Input of a call.

    Attributes:
        tensors: The declared tensors.
        rows: Number of rows.
        row_nbytes: Bytes of a row.
        of_predictions: Whether the rows are outputs in place of inputs.
        held: Tensors that were read whole, by name.
    """

    tensors: IncomingTensors
    rows: int
    row_nbytes: int
    of_predictions: bool
    held: Mapping[str, Array]


@dataclass(eq=False)
class _Work:
    """Work of a call on its row blocks.

    Attributes:
        operation: Operation of the call.
        given: Input of the call.
        plan: Function, arguments and cost.
        block_rows: Rows of a block.
        most_rows: Most rows that may be computed at once.
        charge: Payment of the call.
        asked: The model, its version and the request without its rows: part of the fingerprints of blocks.
    """

    operation: RowOperation
    given: _Given
    plan: Plan
    block_rows: int
    most_rows: int
    charge: Charge
    asked: bytes = b""

    async def mark(self, call: AdmittedCall, begin: int, rows: Mapping[str, Array]) -> bytes:
        """Key under which the block at ``begin`` is charged: its fingerprint where rows can run out, else its place."""
        if not self.charge.binding:
            return begin.to_bytes(8, "little")
        if not self.asked:
            self.asked = _asked(self.operation, call) + self.charge.round
        if sum(array.nbytes for array in rows.values()) <= _FINGERPRINT_HERE_NBYTES:
            return fingerprint(self.asked, begin, rows)
        return await asyncio.to_thread(fingerprint, self.asked, begin, rows)

    async def divisor(self, call: AdmittedCall) -> float:
        """Divisor of a mean over the call's rows."""
        if self.plan.mean_over is None:
            return 1.0
        return float(await call.scheduled.run(call.admitted.estimator.loss_divisor, {"y": self.plan.mean_over}))


def _record(call: AdmittedCall, charge: Charge) -> None:
    """Writes what a call has paid into its entry of the ledger."""
    entry = call.entry
    entry.charged = charge.charged
    if charge.binding and entry.request_id:
        entry.paid, entry.lease = charge.paid, charge.lease


def _failed_by_model(call: AdmittedCall, error: BaseException) -> bool:
    """Returns True if the model ended the call, and not its caller."""
    return isinstance(error, BackendError) or isinstance(call.stream.reason, Hung)


def _has_failed(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is not None


def _asked(operation: RowOperation, call: AdmittedCall) -> bytes:
    """Serializes a call without what differs between its attempts, with the version that its answer depends on."""
    opened, admitted = call.request.open, call.admitted
    options = type(opened)()
    options.CopyFrom(opened)
    options.ClearField("call")
    about = repr((admitted.model, admitted.estimator.version, operation.method)).encode()
    return about + bytes(options.SerializeToString(deterministic=True))
