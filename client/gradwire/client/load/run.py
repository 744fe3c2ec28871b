"""Runs the measurements of a load, one after the other, each with new connections and a warm-up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from multiprocessing.connection import Connection
from typing import Any

from gradwire.client.load.clients import Counts, Measured, Window
from gradwire.client.load.plan import Load, Step
from gradwire.client.load.processes import Order, crews, ready, received, send
from gradwire.client.load.report import Figures, Report, figures, report_of
from gradwire.client.load.tally import Tally

_LEAD_S = 0.05
"""Delay before a measurement, so that all processes have received its start time."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        step: The current measurement.
        number: Number of finished measurements.
        seconds: Time since its start, including the warm-up.
        calls: Its calls so far, including warm-up and failed calls.
        failed: Failed calls among them.
    """

    step: Step
    number: int
    seconds: float
    calls: int
    failed: int


def run_load(
    load: Load,
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Report:
    """Runs the measurements and returns their report.

    With processes, a script must call it under ``if __name__ == "__main__":``, as `multiprocessing` requires.

    Args:
        load: A plan of `plan`.
        on_progress: Called ten times a second.
        stop: Stops the run when set; the report then has the results so far.

    Raises:
        GradwireError: A process of clients has died.
    """
    stop = stop or threading.Event()
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    measured: list[Figures] = []
    with crews(load) as pipes:
        for number, step in enumerate(load.steps):
            if stop.is_set():
                break
            measured += _measure(pipes[: step.concurrency], load, number, on_progress or (lambda progress: None), stop)
    return report_of(load, date, measured, stop.is_set())


# Inside.


def _measure(
    pipes: list[Connection[Any, Any]], load: Load, number: int, on_progress: Callable[[Progress], None], stop: threading.Event
) -> list[Figures]:
    """Measures one step and returns its figures; none if it was stopped before its start."""
    step = load.steps[number]
    for share, pipe in enumerate(pipes):
        send(pipe, Order(step, share, len(pipes)))
    unready = set(pipes)
    while unready:
        for pipe in ready(unready):
            received(pipe)
            unready.discard(pipe)
        if stop.is_set():
            return []
    begin_s = time.perf_counter() + _LEAD_S
    window = Window(begin_s, begin_s + load.warmup_s, begin_s + load.warmup_s + load.duration_s)
    for pipe in pipes:
        send(pipe, window)
    counts: dict[Connection[Any, Any], Counts] = {}
    measured: list[Measured] = []
    running, stopping = set(pipes), False
    while running:
        for pipe in ready(running):
            message = received(pipe)
            if isinstance(message, Counts):
                counts[pipe] = message
            else:
                measured.append(message)
                running.discard(pipe)
        if stop.is_set() and not stopping:
            stopping = True
            for pipe in running:
                send(pipe, None)
        calls, failed = sum(of.calls for of in counts.values()), sum(of.failed for of in counts.values())
        on_progress(Progress(step, number, max(0.0, time.perf_counter() - begin_s), calls, failed))
    return _figures(step, measured, load)


def _figures(step: Step, measured: list[Measured], load: Load) -> list[Figures]:
    tallies = {operation: Tally() for operation, _ in step.mix}
    for of in measured:
        for operation, tally in of.tallies.items():
            tallies[operation].add(tally)
    first_s, last_s = min(of.first_s for of in measured), max(of.last_s for of in measured)
    unsent = sum(of.unsent for of in measured)
    if first_s > last_s and not unsent:
        return []
    cores = max(of.cores for of in measured) if load.processes else None
    return figures(step, tallies, max(0.0, last_s - first_s), unsent, cores)
