"""Stations of a call in client and server, and the time between them.

Calls are made one after the other, and the clock is the machine's (CLOCK_MONOTONIC), so that the times of both sides line up.
Each call is alone on the server, which computes quick ones where it reads them, and queues the others for its runner's thread.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import yaml

from benchmarks.account.notes import Notes, calls_s, passed
from benchmarks.contenders.contender import timed
from benchmarks.contenders.gradwire import MODEL, functions, serve
from benchmarks.model import Array, inputs

STATIONS = {
    "called": "",
    "checked": "client: checks against the card",
    "packed": "client: packs",
    "arrived": "there: system calls, waking the server, its event loop",
    "read": "server: frames, waking the stream's task",
    "parsed": "server: parses",
    "queued": "server: checks, charges, schedules",
    "begun": "hand-over to the runner",
    "prepared": "server: preprocessing",
    "torch": "numpy to torch",
    "computed": "torch computes",
    "numpy": "torch to numpy",
    "done": "server: scales",
    "written": "server: hands back, packs",
    "received": "back: system calls, waking the client",
    "returned": "client: unpacks",
}
"""In order. A call without the queue goes from ``parsed`` to ``begun``; over gRPC no time is recorded at ``arrived``."""

_WITHOUT_QUEUE = {**STATIONS, "begun": STATIONS["queued"]}
_OVER_GRPC = "there: gRPC's threads, waking the server, its event loop"
_LAST = {"received"}
_WARM_UP = 50

WAYS = {"socket": True, "grpc": False}
"""True if calls use the Unix socket of the same host."""


@dataclass(frozen=True)
class Line:
    """One entry of an account: the work of a station, and its microseconds."""

    what: str
    median_us: float
    p10_us: float
    p90_us: float


@dataclass(frozen=True)
class Account:
    """The microseconds of a call, station by station.

    Attributes:
        lines: The stations, from the caller's line to its result.
        whole: The calls that the lines describe.
        computing: The part of ``whole`` between torch's tensors.
        unobserved: The same calls without any recording.
        through_queue: True if the calls passed the runner's queue.
        shown: Number of calls that the lines describe, and of all calls.
    """

    lines: list[Line]
    whole: Line
    computing: Line
    unobserved: Line
    through_queue: bool
    shown: tuple[int, int]


def account(operation: str, rows: int, calls: int, way: str) -> Account:
    """Makes calls and records the time at each station.

    Args:
        operation: One of `cases.ROW_OPERATIONS`.
        rows: Rows of a call, in one block of the server's.
        calls: Number of calls after a warm-up.
        way: One of `WAYS`.
    """
    unobserved_s = _unobserved(operation, rows, calls, way)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # The client is a process of its own too, because recording cannot be turned off again.
    client = context.Process(target=_call, args=(theirs, operation, rows, calls, way))
    client.start()
    # If the client fails, the pipe ends.
    theirs.close()
    try:
        times_s: dict[str, list[float]] = ours.recv()
    finally:
        client.join(60)
    return _of(times_s, way, unobserved_s)


def _of(times_s: dict[str, list[float]], way: str, unobserved_s: list[float]) -> Account:
    queued = passed(times_s, "queued")[_WARM_UP:]
    through_queue = bool(queued.mean() > 0.5)
    shown = queued == through_queue
    titles = dict(STATIONS if through_queue else _WITHOUT_QUEUE)
    stations = [name for name in titles if name in times_s and (through_queue or name != "queued")]
    if "arrived" not in stations:
        titles["read"] = _OVER_GRPC
    at = calls_s(times_s, stations, _LAST)[:, _WARM_UP:][:, shown] * 1e6
    lines = [_line(titles[name], span) for name, span in zip(stations[1:], np.diff(at, axis=0), strict=True)]
    computed = stations.index("computed")
    return Account(
        lines,
        _line("the call", at[-1] - at[0]),
        _line("computing", at[computed] - at[computed - 1]),
        _line("the call, when nobody takes notes", np.array(unobserved_s) * 1e6),
        through_queue,
        (int(shown.sum()), len(shown)),
    )


def _line(what: str, span_us: Array) -> Line:
    p10, median, p90 = (float(value) for value in np.percentile(span_us, (10, 50, 90)))
    return Line(what, median, p10, p90)


def _unobserved(operation: str, rows: int, calls: int, way: str) -> list[float]:
    from gradwire.client import connect

    with serve() as address, connect(address, same_host=WAYS[way]) as connection:
        function = functions(connection.estimator("cnn"))[operation]
        timed(function, inputs(rows), _WARM_UP)
        return timed(function, inputs(rows), calls)


def _call(pipe: Connection, operation: str, rows: int, calls: int, way: str) -> None:
    from gradwire.client import connect
    from gradwire.client.transport.connection import Connection as ClientConnection
    from gradwire.client.transport.same_host import SocketStream
    from gradwire.client.transport.streams import Stream

    notes = Notes()
    notes.at(ClientConnection, "call", before="checked")
    for stream in (SocketStream, Stream):
        notes.at(stream, "send_call", before="packed")
        notes.at(stream, "receive", after="received")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs, operation))
    server.start()
    # If the server fails, the pipe ends.
    theirs.close()
    given = inputs(rows)
    try:
        with connect(ours.recv(), same_host=WAYS[way]) as connection:
            function = functions(connection.estimator("cnn"))[operation]
            for _ in range(calls + _WARM_UP):
                notes.note("called")
                function(given)
                notes.note("returned")
        ours.send(None)
        pipe.send(notes.times_s | ours.recv())
    finally:
        server.join(30)


def _serve(pipe: Connection, operation: str) -> None:
    from gradwire.backends.estimator import Estimator
    from gradwire.backends.torch import TorchModel
    from gradwire.server import serving
    from gradwire.server.scheduling import scheduler
    from gradwire.server.services import admission
    from gradwire.server.transport import same_host, streams

    method = next((name for name in ("class_gradient", "activations") if operation.startswith(name)), operation)
    notes = Notes()
    notes.at(same_host.Connection, "buffer_updated", before="arrived")
    notes.at(streams.OpenStream, "read_call", after="read")
    notes.at(admission, "opening", after="parsed")
    notes.at(scheduler.Scheduler, "put", before="queued")
    notes.at(Estimator, "get_activations" if method == "activations" else method, before="begun", after="done")
    notes.at(TorchModel, method, before="prepared", after="numpy")
    notes.at(TorchModel, "_outputs", before="torch")
    notes.at(TorchModel, "_array", before="computed")
    notes.at(streams.OpenStream, "write", before="written")
    (model,) = yaml.safe_load(MODEL)
    with serving({model.pop("name"): model}) as address:
        pipe.send(address)
        pipe.recv()
        pipe.send(notes.times_s)
