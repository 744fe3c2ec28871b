"""The group ``crowd``: 1,000 clients are connected, and 64 of them call without pause.

The others make a call when they connect and one more at the end. In between each has an open stream and is idle, as most clients
of a server are most of the time.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.contenders import gradwire as ours
from benchmarks.contenders.remote import process
from benchmarks.crowd.resting import resting
from benchmarks.figures.figure import Figure, Goal
from benchmarks.memory import rss_nbytes
from benchmarks.setting import Setting

GROUP = "crowd"
CLIENTS, ACTIVE, PROCESSES = 1000, 64, 16
"""Active clients are threads of ``PROCESSES`` processes: with a process each, they would mostly compete for the cores."""

TAIL = Goal(10.0, "<", "value")
FLAT = Goal(32.0, "<", "value")
NO_ERRORS = Goal(0.0, "<=", "value")

_QUICK_CLIENTS = 200
_WARM_UP_S = 5.0
_LOOK_S = 0.5


def measure(setting: Setting) -> list[Figure]:
    """Measures the figures over the Unix socket and over gRPC."""
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
        of, memory = _active(server, same_host, seconds, Path(folder) / "figures.json")
        failed = others.call_again()
    what = f"{clients:,} connected, {ACTIVE} active, {seconds:g} s, {way}"
    told = (
        f"{what}: {of['calls_per_s']:,.0f} calls/s; "
        f"p50 {of['p50_ms']:.1f} ms, p99 {of['p99_ms']:.1f} ms, slowest {of['max_ms']:.1f} ms; "
        f"the server held {np.median(memory):.0f} MB"
    )
    return [
        Figure(GROUP, f"{what}: calls that failed", "calls", of["failed"] + failed, goal=NO_ERRORS, remark=told),
        Figure(GROUP, f"{what}: p99 over median", "x", of["p99_ms"] / of["p50_ms"], goal=TAIL),
        Figure(GROUP, f"{what}: growth of the server's memory", "MB", _growth(memory), goal=FLAT),
    ]


def _active(server: ours.Served, same_host: bool, seconds: float, report: Path) -> tuple[dict[str, Any], list[float]]:
    """Returns the active clients' figures from ``gradwire bench``, and the server's memory meanwhile, in MB."""
    warm_up_s = min(_WARM_UP_S, seconds / 2)
    load = f"-o predict -n 1 -c {ACTIVE} --processes {PROCESSES} -d {seconds} --warmup {warm_up_s}"
    way = "--same-host" if same_host else "--no-same-host"
    gradwire = str(Path(sys.executable).with_name("gradwire"))
    memory: list[float] = []
    with process(
        [gradwire, "bench", server.address, "cnn", *load.split(), way, "--json", str(report)], report.with_name("log")
    ) as bench:
        while bench.poll() is None:
            time.sleep(_LOOK_S)
            memory.append(rss_nbytes(server.pid) / 1e6)
    if bench.returncode:
        raise RuntimeError(f"gradwire bench failed:\n{report.with_name('log').read_text()[-4000:]}")
    (of,) = json.loads(report.read_text())["figures"]
    # Memory before the end of the warm-up does not count.
    return of, memory[-max(1, int(seconds / _LOOK_S)) :]


def _growth(memory: list[float]) -> float:
    """Computes the median of the last third of the time less that of the first."""
    third = max(1, len(memory) // 3)
    return float(np.median(memory[-third:]) - np.median(memory[:third]))


def _allow_files() -> None:
    """Raises the limit of open files, for a thousand sockets and more, to the most that the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
