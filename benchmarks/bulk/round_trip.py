"""The group ``bulk``: 77 MB there and 77 MB back, beside the same over a bare Unix socket."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.bulk.client import WAYS, batch
from benchmarks.bulk.echo import echo
from benchmarks.bulk.models import MODELS, ROW_NBYTES
from benchmarks.contenders import gradwire as ours
from benchmarks.contenders.contender import timed
from benchmarks.contenders.remote import Remote, client
from benchmarks.figures.figure import Figure, Goal
from benchmarks.figures.rounds import spread
from benchmarks.measure import Disagreement
from benchmarks.model import Inputs
from benchmarks.setting import Setting

GROUP = "bulk"
ROWS = 128
GOALS = {"grpc": Goal(2.5), "socket": Goal(2.5), "shared": Goal(0.7)}
_RAW = "raw Unix socket"


def measure(setting: Setting) -> list[Figure]:
    """Measures each way beside the bare socket."""
    rounds, calls = (3, 1) if setting.quick else (12, 2)
    given = batch(ROWS)
    with TemporaryDirectory(prefix="gradwire-bench-") as name, ours.served(MODELS) as server:
        command = [sys.executable, "-m", "benchmarks.bulk.client", server.address]
        with echo(Path(name), given.x.nbytes) as raw, client(command, Path(name) / "client-log", ours.NAME) as pipe:
            pipe.ready()
            setting.versions.update(pipe.versions)
            remotes = {way: Remote(title, way, pipe, ("predict",)) for way, title in WAYS.items()}
            for remote in remotes.values():
                if not np.array_equal(remote.answer("predict", given).reshape(given.x.shape), given.x):
                    raise Disagreement(f"{remote.name}: the answer differs from the rows that were sent")
            data = given.x.reshape(-1).view(np.uint8).data

            def echoed(calls: int) -> list[float]:
                return timed(lambda _: raw.round_trip(data), given, calls)

            turns: dict[str, Callable[[int], list[float]]] = {_RAW: echoed}
            turns |= {way: _turn(remote, given) for way, remote in remotes.items()}
            medians_ms: dict[str, list[float]] = {name: [] for name in turns}
            order = random.Random(0)
            for number in range(rounds):
                setting.console.print(f"[dim]77 MB: round {number + 1} of {rounds}[/dim]")
                for name in order.sample(sorted(turns), len(turns)):
                    turns[name](1)
                    medians_ms[name].append(float(np.median(turns[name](calls))) * 1e3)
    raw_ms = medians_ms[_RAW]
    return [
        Figure(
            GROUP,
            f"predict, {ROWS * ROW_NBYTES / 1e6:.0f} MB in and out, {title}",
            "ms",
            float(np.median(medians_ms[way])),
            _RAW,
            float(np.median(raw_ms)),
            GOALS[way],
            spread(medians_ms[way], raw_ms),
        )
        for way, title in WAYS.items()
    ]


def _turn(remote: Remote, given: Inputs) -> Callable[[int], list[float]]:
    return lambda calls: remote.times_s("predict", given, calls)
