"""The group ``engines``: a model in the server's process, and the same model in a replica on Ray.

Both servers are in network namespaces of their own, because Ray's daemons listen on all addresses, and are called through Unix
sockets over gRPC. The machine has few processors: how work grows with replicas is measured with a model that waits.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.contenders import gradwire as ours
from benchmarks.contenders.remote import Remote, client
from benchmarks.engines.models import BATCH_ROWS, ROW_S, waiting_replicas
from benchmarks.figures.figure import Figure
from benchmarks.figures.rounds import spread
from benchmarks.setting import Setting
from benchmarks.subject import CNN
from gradwire.client import connect

GROUP = "engines"
OPERATIONS = {"predict": "predict", "loss_gradient": "loss gradient"}
ROWS = (1, 32, 128)
REPLICAS = 4
_MODEL = f"{ours.MODEL.rstrip()}\n    replicas: {{least: 1, cpus: 0.5}}\n"


def measure(setting: Setting) -> list[Figure]:
    """Measures the cost of a replica, and the gain of several."""
    return [*_overhead(setting), *_replicas(setting)]


def _overhead(setting: Setting) -> list[Figure]:
    rounds, calls = (3, 10) if setting.quick else (15, 30)
    figures = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gradwire-bench-")))
        contenders = {}
        for engine in ("embedded", "ray"):
            server = stack.enter_context(ours.served(_MODEL, more=f"engine: {engine}", apart=True))
            pipe = stack.enter_context(client(ours.client_command(server.address), folder / engine, engine))
            pipe.ready()
            contenders[engine] = Remote(engine, "default", pipe, OPERATIONS)
        for rows in ROWS:
            inputs = CNN.inputs(rows)
            for operation, title in OPERATIONS.items():
                times_s: dict[str, list[float]] = {engine: [] for engine in contenders}
                for contender in contenders.values():
                    contender.times_s(operation, inputs, 5)
                for _ in range(rounds):
                    for engine, contender in contenders.items():
                        times_s[engine].append(float(np.median(contender.times_s(operation, inputs, calls))))
                mine, theirs = (1e3 * float(np.median(times_s[engine])) for engine in ("ray", "embedded"))
                name = f"{title}, CNN, {rows} row{'s' if rows > 1 else ''}, one replica on Ray"
                band = spread(times_s["ray"], times_s["embedded"])
                remark = f"{name}: Ray's way there and back takes {mine - theirs:.2f} ms"
                figures.append(Figure(GROUP, name, "ms", mine, "embedded", theirs, spread=band, remark=remark))
    return figures


def _replicas(setting: Setting) -> list[Figure]:
    rounds, blocks = (2, 20) if setting.quick else (5, 100)
    x = np.zeros((blocks * BATCH_ROWS, 16), np.float32)
    rows_per_s: dict[int, list[float]] = {1: [], REPLICAS: []}
    with ExitStack() as stack:
        remotes = {}
        for replicas in rows_per_s:
            server = stack.enter_context(ours.served(waiting_replicas(replicas), more="engine: ray", apart=True))
            remotes[replicas] = stack.enter_context(connect(server.address)).estimator("waiting")
            remotes[replicas].predict(x)
        for _ in range(rounds):
            for replicas, remote in remotes.items():
                began_s = time.perf_counter()
                remote.predict(x)
                rows_per_s[replicas].append(len(x) / (time.perf_counter() - began_s))
    many, one = (float(np.median(rows_per_s[replicas])) for replicas in (REPLICAS, 1))
    name = f"one call of {len(x):,} rows, {ROW_S * 1e3:g} ms of waiting a row, {REPLICAS} replicas"
    remark = f"{name}: without any overhead {REPLICAS} replicas would answer {REPLICAS / ROW_S:,.0f} rows/s"
    band = spread(rows_per_s[REPLICAS], rows_per_s[1])
    return [Figure(GROUP, name, "rows/s", many, "one replica", one, spread=band, remark=remark)]
