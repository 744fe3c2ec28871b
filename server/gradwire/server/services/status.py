"""StatusService: the state of the server, for `gradwire top`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from gradwire.server.catalogue.cards import device_uuid
from gradwire.server.catalogue.served import Served
from gradwire.server.errors import NotGranted
from gradwire.server.observe.device_readings import DeviceStatus
from gradwire.server.observe.view import View
from gradwire.server.telemetry import counts
from gradwire.server.transport.unary import answered
from gradwire.server.trust.identity.guard import caller
from gradwire.v1 import status_pb2 as pb
from gradwire.v1 import status_pb2_grpc


class StatusServicer(status_pb2_grpc.StatusServiceServicer):
    """Serves StatusService.

    Args:
        view: View of the server.
        open_to_all: Whether every caller may see the status; otherwise only admins may.
    """

    def __init__(self, view: View, open_to_all: bool) -> None:
        self._view = view
        self._open_to_all = open_to_all

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:  # noqa: N802
        """Answers the status of the server, its devices and its models."""

        async def answer() -> pb.GetStatusResponse:
            streams = self._view.streams
            principal = caller()
            if not self._open_to_all:
                if streams.identity.anonymous:
                    raise NotGranted(
                        "the server can be reached from other hosts and does not authenticate callers, so its status is hidden; "
                        "configure identity with admins, or listen on 127.0.0.1"
                    )
                self._view.trust.check_admin(principal)
            # Devices are read on another thread: a slow driver delays no call.
            return self._status(await asyncio.to_thread(self._view.devices))

        return await answered(context, self._view.streams, answer())

    def _status(self, devices: list[DeviceStatus]) -> pb.GetStatusResponse:
        view = self._view
        trust, streams, scheduler = view.trust, view.streams, view.scheduler
        result = pb.GetStatusResponse(
            server=trust.server,
            version=view.version,
            started=_timestamp(view.started_s),
            now=_timestamp(time.time()),
            open_streams=len(streams),
            running_calls=scheduler.calls,
            received_bytes=streams.traffic.received_nbytes,
            sent_bytes=streams.traffic.sent_nbytes,
            ledger_pending_calls=trust.writer.pending,
            ledger_lost_calls=trust.writer.lost,
            refusing="" if streams.refusing is None else str(streams.refusing),
            devices=[_device(device) for device in devices],
            models=[self._model(served) for served in view.served],
        )
        if view.process_index is not None:
            result.process.CopyFrom(pb.ProcessStatus(**view.process_index.model_dump()))
        waiting = scheduler.waiting()
        for name in dict.fromkeys(served.model for served in view.served):
            result.queues.append(self._queue(name, waiting.get(name, 0)))
        return result

    def _model(self, served: Served) -> pb.ModelStatus:
        estimator = served.estimator
        return pb.ModelStatus(
            name=served.name,
            queue=served.model,
            version=estimator.version,
            backend=estimator.config.backend,
            device=estimator.model.device,
            device_uuid=device_uuid(estimator.model),
            operations=[
                _operation(operation, calls)
                for (name, operation), calls in list(self._view.trust.counts.of.items())
                if name == served.name
            ],
        )

    def _queue(self, name: str, waiting: int) -> pb.QueueStatus:
        tally = self._view.scheduler.tally
        batches = [
            pb.BatchStatus(function=function, batches=its.batches, blocks=its.blocks, rows=its.rows, seconds=its.seconds)
            for (model, function), its in list(tally.of.items())
            if model == name
        ]
        waits = tally.waits.get(name, counts.Histogram())
        return pb.QueueStatus(name=name, waiting_calls=waiting, wait_seconds=_histogram(waits), batches=batches)


def _device(device: DeviceStatus) -> pb.DeviceStatus:
    reading = device.reading
    return pb.DeviceStatus(
        device=device.name, uuid=device.uuid, memory_bytes=reading.memory_nbytes, utilization=reading.utilisation
    )


def _operation(operation: str, calls: counts.Calls) -> pb.OperationStatus:
    return pb.OperationStatus(
        operation=operation,
        outcomes=calls.outcomes,
        forward=calls.forward,
        backward=calls.backward,
        seconds=_histogram(calls.seconds),
    )


def _histogram(histogram: counts.Histogram) -> pb.Histogram:
    return pb.Histogram(bounds=histogram.bounds, counts=histogram.counts, total=histogram.total)


def _timestamp(seconds: float) -> Timestamp:
    result = Timestamp()
    result.FromNanoseconds(int(seconds * 1e9))
    return result
