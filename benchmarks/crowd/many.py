"""The group ``crowd``: 1,000 clients are connected, and 64 of them call without pause.

The others have made a call when they came and make one more at the end: an open stream and nothing else, which is what most
clients of a server are most of the time.
"""

from __future__ import annotations

import resource
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.contenders import gradwire as ours
from benchmarks.crowd.resting import resting
from benchmarks.figures.figure import Figure, Goal
from benchmarks.memory import rss_nbytes
from benchmarks.setting import Setting
from gradwire.client.load import Report, Target, plan, run_load

GROUP = "crowd"
CLIENTS, ACTIVE, PROCESSES = 1000, 64, 16
"""Active clients are threads of so many processes: each process of its own would measure their fight for the cores."""

TAIL = Goal(10.0, "<", "value")
FLAT = Goal(32.0, "<", "value")
NO_ERRORS = Goal(0.0, "<=", "value")

_QUICK_CLIENTS = 200
_WARM_UP_S = 5.0
_LOOK_S = 0.5


def measure(setting: Setting) -> list[Figure]:
    """Measures them, on the same host and over gRPC."""
    seconds = 6.0 if setting.quick else setting.crowd_s
    return [*_figures(True, seconds, setting), *_figures(False, seconds, setting)]


def _figures(same_host: bool, seconds: float, setting: Setting) -> list[Figure]:
    way = "Unix socket" if same_host else "gRPC"
    clients = _QUICK_CLIENTS if setting.quick else CLIENTS
    setting.console.print(f"[dim]{clients} clients over {'a ' if same_host else ''}{way}, {seconds:g} s[/dim]")
    _allow_files()
    with (
        TemporaryDirectory(prefix="gradwire-bench-") as folder,
        ours.served() as server,
        resting(server.address, clients - ACTIVE, same_host, Path(folder) / "log") as others,
    ):
        report, memory = _active(server, same_host, seconds)
        failed = others.call_again()
    (of,) = report.figures
    if of.p50_ms is None or of.p99_ms is None or of.max_ms is None:
        raise RuntimeError(f"no call was answered: {of.errors}")
    what = f"{clients:,} connected, {ACTIVE} active, {seconds:g} s, {way}"
    told = (
        f"{what}: {of.calls_per_s:,.0f} calls/s; p50 {of.p50_ms:.1f} ms, p99 {of.p99_ms:.1f} ms, slowest {of.max_ms:.1f} ms; "
        f"the server held {np.median(memory):.0f} MB"
    )
    return [
        Figure(GROUP, f"{what}: calls that failed", "calls", of.failed + failed, goal=NO_ERRORS, remark=told),
        Figure(GROUP, f"{what}: p99 over median", "x", of.p99_ms / of.p50_ms, goal=TAIL),
        Figure(GROUP, f"{what}: growth of the server's memory", "MB", _growth(memory), goal=FLAT),
    ]


def _active(server: ours.Served, same_host: bool, seconds: float) -> tuple[Report, list[float]]:
    """What the active clients report, and the server's memory meanwhile, in MB."""
    target = Target(server.address, "cnn", same_host=same_host)
    load = plan(
        target, ["predict"], concurrency=[ACTIVE], processes=PROCESSES, duration_s=seconds, warmup_s=min(_WARM_UP_S, seconds / 2)
    )
    memory: list[float] = []
    warm, ended = threading.Event(), threading.Event()

    def look() -> None:
        warm.wait()
        while not ended.wait(_LOOK_S):
            memory.append(rss_nbytes(server.pid) / 1e6)

    looking = threading.Thread(target=look, name="memory")
    looking.start()
    try:
        report = run_load(load, lambda progress: warm.set() if progress.seconds > load.warmup_s else None)
    finally:
        warm.set()
        ended.set()
        looking.join()
    return report, memory


def _growth(memory: list[float]) -> float:
    """By how much the median of the last third of the time is above that of the first."""
    third = max(1, len(memory) // 3)
    return float(np.median(memory[-third:]) - np.median(memory[:third]))


def _allow_files() -> None:
    """Lets this process and those it starts open as many files as the system allows: a thousand sockets and more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
