"""What came of a load: figures as plain values, and as JSON."""

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
"""Of the JSON; a change that a reader would notice makes it another."""


@dataclass(frozen=True)
class Figures:
    """One operation, measured.

    Latencies are those of calls that were answered. In a mix, ``seconds``, ``unsent`` and ``client_cores`` are the mix's.

    Attributes:
        operation: As users name it.
        rows: Of each call.
        concurrency: Clients, each with at most one call at a time.
        weight: Its part of a mix, 0 to 1; None if it was measured alone.
        calls: Answered.
        failed: Not answered.
        errors: Those that failed, by the names of their errors.
        seconds: From the first call's beginning to the last one's end.
        p50_ms: The median; None, as the others, if nothing was answered.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        max_ms: The longest.
        mean_ms: On average.
        calls_per_s: Answered calls.
        rows_per_s: Rows of answered calls.
        unsent: In an open loop, calls that were due and never made, because no client was free.
        client_cores: Processor cores that the busiest process of clients used; None where clients are threads of the caller's
            process. Near 1, the clients may be what is measured.
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
    """A whole run.

    Attributes:
        address: Of the server.
        model: The served name.
        date: When it began, UTC, ISO 8601.
        backend: The framework behind the model.
        version: Of the weights.
        device: Where the model is.
        access: What this caller is granted.
        input_shape: Sizes of a row's axes as they were sent.
        input_dtype: Of the rows.
        duration_s: How long each measurement was to take.
        warmup_s: Before each of them, not counted.
        processes: That the clients were spread over; 0: threads of the caller's own.
        rate_per_s: Of an open loop; None: a closed one.
        layer: Whose activations were asked for.
        seed: Of the rows.
        same_host: Whether calls could take the server's Unix socket in place of gRPC.
        interrupted: It was ended early.
        left_out: What was not measured, and why.
        figures: One an operation, number of rows and number of clients.
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
    """The figures of one measurement.

    Args:
        step: What was measured.
        tallies: What was counted, by operation.
        seconds: From the first call's beginning to the last one's end.
        unsent: Calls that were due and never made.
        client_cores: That the busiest process of clients used; None if it is not known.
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
    """The report of a run that began at ``date``."""
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
    """Everything there is to know of a run: the report's fields by their names, and what made the load."""
    client: dict[str, str | int] = {package: version(package) for package in ("gradwire", "numpy", "grpcio", "protobuf")}
    client |= {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}", "cores": cores()}
    return json.dumps({"format": FORMAT, **asdict(report), "client": client}, indent=2, allow_nan=False) + "\n"


def all_failed(measured: Sequence[Figures]) -> list[Figures]:
    """Those of which no call was answered."""
    return [of for of in measured if of.failed and not of.calls]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _latencies(tally: Tally) -> dict[str, float | None]:
    names = ("p50_ms", "p90_ms", "p99_ms", "max_ms", "mean_ms")
    if not tally.latencies_s:
        return dict.fromkeys(names)
    latencies_ms = np.frombuffer(tally.latencies_s, np.float32).astype(np.float64) * 1e3
    # Observed values, and none that flatters.
    percentiles = np.percentile(latencies_ms, (50, 90, 99, 100), method="higher")
    return dict(zip(names, map(float, (*percentiles, latencies_ms.mean())), strict=True))
