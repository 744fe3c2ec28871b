"""The group ``memory``: growth of a server's memory while one call streams 10 GB through predict."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.bulk.models import MODELS, ROW_NBYTES, ROW_SHAPE
from benchmarks.contenders import gradwire as ours
from benchmarks.contenders.remote import ROOT
from benchmarks.figures.figure import Figure, Goal
from benchmarks.memory import forget_peak, peak_nbytes, rss_nbytes
from benchmarks.setting import Setting
from gradwire.client import connect

GROUP = "memory"
GOAL = Goal(200.0, "<", "value")
_WARM_ROWS = 256


def measure(setting: Setting) -> list[Figure]:
    """Measures the growth over the Unix socket and over gRPC."""
    rows = (1 if setting.quick else 10) * 10**9 // ROW_NBYTES
    return [_figure(same_host, rows, setting) for same_host in (True, False)]


def _figure(same_host: bool, rows: int, setting: Setting) -> Figure:
    way = "Unix socket and shared memory" if same_host else "gRPC"
    nbytes = rows * ROW_NBYTES
    setting.console.print(f"[dim]{nbytes / 1e9:.0f} GB through predict, {way}[/dim]")
    with ours.served(MODELS) as server:
        _stream(server.address, _WARM_ROWS, same_host)
        forget_peak(server.pid)
        before = rss_nbytes(server.pid)
        seconds = _stream(server.address, rows, same_host)
        growth = peak_nbytes(server.pid) - before
    return Figure(
        GROUP,
        f"server's memory while {nbytes / 1e9:.0f} GB stream through predict, {way}",
        "MB",
        growth / 1e6,
        goal=GOAL,
        remark=f"{way}: {nbytes / 1e9 / seconds:.2f} GB/s; after a call of {_WARM_ROWS} rows, before it, the server held "
        f"{before / 1e6:.0f} MB",
    )


def _stream(address: str, rows: int, same_host: bool) -> float:
    """Makes one call in a process of its own and returns its seconds."""
    command = [sys.executable, "-m", "benchmarks.bulk.memory", address, str(rows), str(int(same_host))]
    done = subprocess.run(command, env=os.environ, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the call of {rows} rows failed:\n{done.stderr[-4000:]}")
    return float(done.stdout)


def main(address: str, rows: str, same_host: str) -> None:
    """Makes the call and prints its seconds. The rows are zeros, in a sparse file."""
    with TemporaryDirectory(prefix="gradwire-bench-") as folder:
        file = Path(folder) / "rows"
        with file.open("wb") as opened:
            opened.truncate(int(rows) * ROW_NBYTES)
        x = np.memmap(file, np.float32, "r", shape=(int(rows), *ROW_SHAPE))
        with connect(address, timeout_s=None, same_host=same_host == "1") as server:
            estimator = server.estimator("means")
            begin_s = time.perf_counter()
            result = estimator.predict(x)
            seconds = time.perf_counter() - begin_s
    if result.shape != (int(rows), 10) or (result != result[0]).any():
        raise SystemExit(f"wrong answer: shape {result.shape}, rows {result[:2]}")
    print(seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
