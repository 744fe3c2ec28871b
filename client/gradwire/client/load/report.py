"""Report of a load: figures as plain values, and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

import numpy as np

from gradwire.client.load.plan import Load, Step
from gradwire.client.load.tally import Failure, Tally

FORMAT = 1
"""Version of the JSON format; incompatible changes increase it."""


@dataclass(frozen=True)
class Figures:
    """Figures of one operation.

    Latencies are those of answered calls. In a mix, ``seconds``, ``unsent`` and ``client_cores`` are the mix's.

    Attributes:
        operation: The name that users type.
        rows: Rows per call.
        concurrency: Clients, each with at most one call at a time.
        weight: Share of a mix, 0 to 1; None if measured alone.
        calls: Answered calls.
        failed: Failed calls.
        errors: Failed calls by the names of their errors.
        seconds: From the start of the first call to the end of the last.
        p50_ms: Median latency; None, as the others, if no call was answered.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        max_ms: Greatest latency.
        mean_ms: Mean latency.
        calls_per_s: Answered calls per second.
        rows_per_s: Rows of answered calls per second.
        unsent: In an open loop, calls that were due and never made, because no client was free.
        client_cores: Processor cores that the busiest process of clients used; None if clients are threads of the caller's
            process. Near 1, the clients may limit the figures.
    """

    operation: str
    rows: int
    concurrency: int
    weight: float | None
    calls: int
    failed: int
    errors: dict[str, Failure]
    seconds: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    mean_ms: float | None
    calls_per_s: float
    rows_per_s: float
    unsent: int
    client_cores: float | None


@dataclass(frozen=True)
class Report:
    """Report of a whole run.

    Attributes:
        address: The server's address.
        model: The served name.
        date: Start of the run, UTC, ISO 8601.
        backend: The model's framework.
        version: Version of the weights.
        device: The model's device.
        access: This caller's access.
        input_shape: Sizes of the axes of the rows sent.
        input_dtype: Dtype of the rows.
        duration_s: Planned duration of each measurement.
        warmup_s: Duration of each warm-up, not counted.
        processes: Processes of clients; 0: threads of the caller's process.
        rate_per_s: Calls per second of an open loop; None: a closed loop.
        layer: The layer of activations.
        seed: Seed of the rows.
        same_host: Whether calls could use the server's Unix socket in place of gRPC.
        interrupted: Whether the run was stopped early.
        left_out: Measurements left out, and the reasons.
        figures: One per operation, number of rows and number of clients.
    """

    address: str
    model: str
    date: str
    backend: str
    version: str
    device: str
    access: str
    input_shape: tuple[int, ...]
    input_dtype: str
    duration_s: float
    warmup_s: float
    processes: int
    rate_per_s: float | None
    layer: str | int | None
    seed: int
    same_host: bool
    interrupted: bool
    left_out: tuple[str, ...]
    figures: tuple[Figures, ...]


def figures(step: Step, tallies: dict[str, Tally], seconds: float, unsent: int, client_cores: float | None) -> list[Figures]:
    """Computes the figures of one measurement.

    Args:
        step: The measurement.
        tallies: Tallies by operation.
        seconds: From the start of the first call to the end of the last.
        unsent: Calls that were due and never made.
        client_cores: Cores that the busiest process of clients used; None if unknown.
    """

    def of(operation: str, weight: float) -> Figures:
        tally = tallies[operation]
        calls = len(tally.latencies_s)
        per_s = calls / seconds if seconds > 0 else 0.0
        return Figures(
            operation=operation,
            rows=step.rows,
            concurrency=step.concurrency,
            weight=weight if len(step.mix) > 1 else None,
            calls=calls,
            failed=sum(failure.calls for failure in tally.failures.values()),
            errors=dict(tally.failures),
            seconds=seconds,
            **_latencies(tally),
            calls_per_s=per_s,
            rows_per_s=per_s * step.rows,
            unsent=unsent,
            client_cores=client_cores,
        )

    return [of(operation, weight) for operation, weight in step.mix]


def report_of(load: Load, date: str, measured: Sequence[Figures], interrupted: bool) -> Report:
    """Makes the report of a run that began at ``date``."""
    card = load.inputs.card
    return Report(
        address=load.target.address,
        model=card.name,
        date=date,
        backend=card.backend,
        version=card.version,
        device=card.device,
        access=card.access,
        input_shape=load.inputs.shape,
        input_dtype=str(card.input_dtype),
        duration_s=load.duration_s,
        warmup_s=load.warmup_s,
        processes=load.processes,
        rate_per_s=load.rate_per_s,
        layer=load.inputs.layer,
        seed=load.seed,
        same_host=load.target.same_host,
        interrupted=interrupted,
        left_out=load.left_out,
        figures=tuple(measured),
    )


def as_json(report: Report) -> str:
    """Formats a report as JSON, with versions and machine of the client."""
    client: dict[str, str | int] = {package: version(package) for package in ("gradwire", "numpy", "grpcio", "protobuf")}
    client |= {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}", "cores": cores()}
    return json.dumps({"format": FORMAT, **asdict(report), "client": client}, indent=2, allow_nan=False) + "\n"


def all_failed(measured: Sequence[Figures]) -> list[Figures]:
    """Returns the figures without any answered call."""
    return [of for of in measured if of.failed and not of.calls]


def cores() -> int:
    """Returns the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _latencies(tally: Tally) -> dict[str, float | None]:
    names = ("p50_ms", "p90_ms", "p99_ms", "max_ms", "mean_ms")
    if not tally.latencies_s:
        return dict.fromkeys(names)
    latencies_ms = np.frombuffer(tally.latencies_s, np.float32).astype(np.float64) * 1e3
    # Observed values, rounded up.
    percentiles = np.percentile(latencies_ms, (50, 90, 99, 100), method="higher")
    return dict(zip(names, map(float, (*percentiles, latencies_ms.mean())), strict=True))
