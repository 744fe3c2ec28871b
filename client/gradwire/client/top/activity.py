"""Activity of a server between two readings of its status, or since its start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import accumulate

from gradwire.v1 import status_pb2 as pb


@dataclass(frozen=True)
class Operation:
    """Calls of one operation of one served name.

    Attributes:
        calls: Calls that ended.
        failed: Failed calls among them, by reason; cancelled calls do not count.
        forward: Forward rows charged.
        backward: Backward rows charged.
        p50_s: Median time on the server; None without calls.
        p99_s: 99th percentile of the time on the server; None without calls.
        batch_rows: Mean rows per batch, over all names that share the model; None without batches.
    """

    operation: str
    calls: int
    failed: dict[str, int]
    forward: int
    backward: int
    p50_s: float | None
    p99_s: float | None
    batch_rows: float | None


@dataclass(frozen=True)
class Model:
    """Activity of one served name.

    Attributes:
        waiting: Calls that wait for the model's device now.
        operations: Operations called so far, in the order of their first calls.
    """

    name: str
    version: str
    backend: str
    device: str
    device_uuid: str
    waiting: int
    operations: list[Operation]


@dataclass(frozen=True)
class Device:
    """Current state of a device.

    Attributes:
        memory_nbytes: Bytes by kind: used, total, and more if the backend reports them.
        utilization: 0 to 1; None if unknown.
    """

    device: str
    uuid: str
    memory_nbytes: dict[str, int]
    utilization: float | None


@dataclass(frozen=True)
class Activity:
    """Activity of a server in a period.

    Attributes:
        server: The server process, as in its ledger.
        process: Number and device of the process among several at its address; empty if it is alone.
        version: Version of gradwire.
        up_s: Time since its start.
        period_s: Length of the period.
        refusing: Why it accepts no new calls; empty if it accepts them.
    """

    server: str
    process: str
    version: str
    up_s: float
    period_s: float
    refusing: str
    open_streams: int
    running_calls: int
    received_nbytes: int
    sent_nbytes: int
    ledger_pending_calls: int
    ledger_lost_calls: int
    devices: list[Device]
    models: list[Model]


_WELL = ("OK", "CANCELLED")


def activity(now: pb.GetStatusResponse, before: pb.GetStatusResponse | None = None) -> Activity:
    """Computes the activity between two readings, or since the start if the first is missing or the server restarted."""
    if before is None or (before.server, before.started) != (now.server, now.started):
        before = pb.GetStatusResponse(server=now.server, started=now.started, now=now.started)
    models_before = {model.name: model for model in before.models}
    queues_before = {queue.name: queue for queue in before.queues}
    queues = {queue.name: queue for queue in now.queues}
    models = [
        _model(
            model,
            queues.get(model.queue, pb.QueueStatus()),
            models_before.get(model.name, pb.ModelStatus()),
            queues_before.get(model.queue, pb.QueueStatus()),
        )
        for model in now.models
    ]
    started, read, read_before = (moment.ToDatetime(timezone.utc) for moment in (now.started, now.now, before.now))
    return Activity(
        server=now.server,
        process=f"process {now.process.number} of {now.process.count}, {now.process.device}" if now.HasField("process") else "",
        version=now.version,
        up_s=_seconds(read, started),
        period_s=_seconds(read, read_before),
        refusing=now.refusing,
        open_streams=now.open_streams,
        running_calls=now.running_calls,
        received_nbytes=now.received_bytes - before.received_bytes,
        sent_nbytes=now.sent_bytes - before.sent_bytes,
        ledger_pending_calls=now.ledger_pending_calls,
        ledger_lost_calls=now.ledger_lost_calls,
        devices=[_device(device) for device in now.devices],
        models=models,
    )


def quantile(bounds: Sequence[float], counts: Sequence[int], part: float) -> float | None:
    """Estimates a quantile of a histogram, by linear interpolation within its bucket as in Prometheus.

    Args:
        bounds: Upper bounds of the buckets.
        counts: One more than bounds: the last bucket has no bound, and its values count as the last bound.
        part: The quantile, 0 to 1.

    Returns:
        None if the histogram is empty.
    """
    total = sum(counts)
    if not total:
        return None
    wanted = part * total
    for index, reached in enumerate(accumulate(counts)):
        if reached >= wanted and counts[index]:
            if index == len(bounds):
                break
            low = bounds[index - 1] if index else 0.0
            return low + (bounds[index] - low) * (wanted - (reached - counts[index])) / counts[index]
    return bounds[-1]


def _model(now: pb.ModelStatus, queue: pb.QueueStatus, before: pb.ModelStatus, queue_before: pb.QueueStatus) -> Model:
    earlier = {its.operation: its for its in before.operations}
    batches = {its.function: its for its in queue.batches}
    batches_before = {its.function: its for its in queue_before.batches}
    operations = []
    for its in now.operations:
        name, first = its.operation, earlier.get(its.operation, pb.OperationStatus())
        rows, made = (
            getattr(batches.get(name, pb.BatchStatus()), field) - getattr(batches_before.get(name, pb.BatchStatus()), field)
            for field in ("rows", "batches")
        )
        operations.append(_operation(its, first, rows / made if made else None))
    return Model(now.name, now.version, now.backend, now.device, now.device_uuid, queue.waiting_calls, operations)


def _operation(now: pb.OperationStatus, before: pb.OperationStatus, batch_rows: float | None) -> Operation:
    outcomes = {name: number - before.outcomes.get(name, 0) for name, number in sorted(now.outcomes.items())}
    counts = _differences(now.seconds.counts, before.seconds.counts)
    return Operation(
        operation=now.operation,
        calls=sum(outcomes.values()),
        failed={name: number for name, number in outcomes.items() if number and name not in _WELL},
        forward=now.forward - before.forward,
        backward=now.backward - before.backward,
        p50_s=quantile(now.seconds.bounds, counts, 0.5),
        p99_s=quantile(now.seconds.bounds, counts, 0.99),
        batch_rows=batch_rows,
    )


def _differences(now: Iterable[int], before: Sequence[int]) -> list[int]:
    return [count - (before[index] if before else 0) for index, count in enumerate(now)]


def _device(device: pb.DeviceStatus) -> Device:
    utilization = device.utilization if device.HasField("utilization") else None
    return Device(device.device, device.uuid, dict(device.memory_bytes), utilization)


def _seconds(later: datetime, earlier: datetime) -> float:
    return max(0.0, (later - earlier).total_seconds())
