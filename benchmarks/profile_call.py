"""``python -m benchmarks.profile_call``: where the microseconds of one call go.

A client in this process and a server in another note the time at the stations that a call passes. Calls are made one
after the other and the clock is the machine's (CLOCK_MONOTONIC), so that the notes of both line up. Such calls are alone
on the server: it computes the quick ones where it reads them, and queues the others for its runner's thread.
"""

from __future__ import annotations

import functools
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.cases import ROW_OPERATIONS
from benchmarks.contenders.gradwire import MODEL, functions
from benchmarks.model import Array, inputs

_WARM_UP = 50

INLINE = {
    "called": "",
    "sent": "client: checks and packs",
    "read": "on the way to the server",
    "begun": "server: parses and prepares",
    "computed": "computes",
    "written": "server: packs",
    "received": "on the way to the client",
    "returned": "client: unpacks",
}
"""Moments of a call that is computed where it was read, in their order, and what has happened since the one before."""

QUEUED = {
    "called": "",
    "sent": "client: checks and packs",
    "read": "on the way to the server",
    "queued": "server: parses and prepares",
    "begun": "hand-over to the runner",
    "computed": "computes",
    "written": "hand-over from the runner, and packing",
    "received": "on the way to the client",
    "returned": "client: unpacks",
}
"""The same of a call that passes the queue."""


class Notes:
    """When stations were passed: for each the times, in seconds of the machine's clock."""

    def __init__(self) -> None:
        self.times_s: dict[str, list[float]] = {}

    def note(self, station: str) -> None:
        """Notes that a call has come to a station."""
        self.times_s.setdefault(station, []).append(time.perf_counter())

    def before(self, owner: Any, name: str, station: str) -> None:
        """Notes whenever a function is called from now on."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.note(station)
            return function(*args, **kwargs)

        setattr(owner, name, noted)

    def after(self, owner: Any, name: str, station: str) -> None:
        """Notes whenever a function has returned."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            self.note(station)
            return result

        setattr(owner, name, noted)

    def after_awaiting(self, owner: Any, name: str, station: str) -> None:
        """Notes whenever a coroutine has returned."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        async def noted(*args: Any, **kwargs: Any) -> Any:
            result = await function(*args, **kwargs)
            self.note(station)
            return result

        setattr(owner, name, noted)


def profile(
    operation: Annotated[str, typer.Argument(help=f"One of: {', '.join(ROW_OPERATIONS)}.")] = "loss_gradient",
    rows: Annotated[int, typer.Option(help="In one block of the server's.", min=1, max=128)] = 1,
    calls: Annotated[int, typer.Option(min=10)] = 500,
) -> None:
    """Say where the time of a call goes, from the caller's line to its result."""
    if operation not in ROW_OPERATIONS:
        raise typer.BadParameter(f"{operation!r} is not one of: {', '.join(ROW_OPERATIONS)}")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,))
    server.start()
    try:
        times_s = _call(ours.recv(), operation, rows, calls)
        ours.send(None)
        times_s |= ours.recv()
    finally:
        server.join(30)
    Console().print(_table(operation, rows, times_s))


def _serve(pipe: Connection) -> None:
    from gradwire.server import scheduler, serving, streams

    notes = Notes()
    notes.after_awaiting(streams.OpenStream, "read", "read")
    notes.before(scheduler.Scheduler, "_put", "queued")
    notes.before(scheduler.Work, "compute", "begun")
    notes.after(scheduler.Work, "compute", "computed")
    notes.before(streams.OpenStream, "write", "written")
    (model,) = yaml.safe_load(MODEL)
    with serving({model.pop("name"): model}) as address:
        pipe.send(address)
        pipe.recv()
        pipe.send(notes.times_s)


def _call(address: str, operation: str, rows: int, calls: int) -> dict[str, list[float]]:
    from gradwire.client import connect, streams

    notes = Notes()
    notes.before(streams.Outbox, "put", "sent")
    notes.after(streams.Stream, "receive", "received")
    given = inputs(rows)
    with connect(address) as connection:
        function = functions(connection.estimator("cnn"))[operation]
        for _ in track(range(calls + _WARM_UP), "calling", transient=True):
            notes.note("called")
            function(given)
            notes.note("returned")
    return notes.times_s


def _table(operation: str, rows: int, times_s: dict[str, list[float]]) -> Table:
    queued = _passed(times_s, "queued")[_WARM_UP:]
    through_queue = queued.mean() > 0.5
    shown = queued == through_queue
    stations = QUEUED if through_queue else INLINE
    at = _calls_s(times_s, list(stations))[:, _WARM_UP:][:, shown] * 1e6
    spans = np.diff(at, axis=0)
    where = "on the runner's thread" if through_queue else "where they were read, without a queue"
    table = Table(
        title=f"{ROW_OPERATIONS[operation]} of {rows} row{'s' if rows > 1 else ''}, µs",
        title_justify="left",
        caption=f"{shown.sum()} of {len(shown)} calls were computed {where}; the table is of these",
        caption_justify="left",
    )
    for column in ("", "median", "p10", "p90"):
        table.add_column(column, justify="right" if column else "left")
    for what, span in zip(list(stations.values())[1:], spans, strict=True):
        table.add_row(what, *_numbers(span))
    table.add_section()
    total = at[-1] - at[0]
    table.add_row("the call", *_numbers(total))
    table.add_row("the call, without computing", *_numbers(total - spans[list(stations).index("computed") - 1]))
    return table


def _passed(times_s: dict[str, list[float]], station: str) -> Array:
    """Whether a call came to a station, ``(calls,)``."""
    times = times_s.get(station, [])
    passed: Array = np.searchsorted(times, times_s["called"]) < np.searchsorted(times, times_s["returned"])
    return passed


def _calls_s(times_s: dict[str, list[float]], stations: list[str]) -> Array:
    """The stations' times, ``(stations, calls)``. Of several messages of a call the first counts, of those received the last."""
    begin, end = np.array(times_s["called"]), np.array(times_s["returned"])
    at = []
    for station in stations:
        times = np.array(times_s[station])
        # A call that has not come to a station gets the time of another one, and is not shown.
        first = np.minimum(np.searchsorted(times, begin), len(times) - 1)
        at.append(times[np.searchsorted(times, end, "right") - 1 if station == "received" else first])
    return np.array(at)


def _numbers(span: Array) -> list[str]:
    p10, median, p90 = np.percentile(span, (10, 50, 90))
    return [f"{median:.0f}", f"{p10:.0f}", f"{p90:.0f}"]


if __name__ == "__main__":
    typer.run(profile)
