"""The group ``clients``: calls a second of 4 and of 16 clients, beside MLServer's.

Every client is a process with one call of one row at a time. All servers and all clients run throughout; contenders take turns, in
which their clients call as fast as they are answered.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.cases import TITLES
from benchmarks.contenders import gradwire as ours
from benchmarks.contenders import mlserver as mlservers
from benchmarks.contenders.remote import Pipe, client
from benchmarks.contenders.worker import Loop
from benchmarks.figures.figure import Figure, Goal
from benchmarks.figures.rounds import spread
from benchmarks.setting import Setting

GROUP = "clients"
OPERATIONS = ("predict", "loss_gradient")
GOALS = {4: Goal(2.0, ">="), 16: Goal(3.0, ">=")}
"""Goals beside MLServer's ordinary calls, by the number of clients."""

_LEAD_S = 0.05
"""Time from the request to the first call."""
_SETTLE_S = 0.3
"""Time of calls before those that count."""


def measure(setting: Setting) -> list[Figure]:
    """Measures the figures; none without MLServer."""
    if not setting.mlserver:
        setting.console.print("clients: left out, because they are compared with MLServer alone")
        return []
    rounds, seconds = (3, 0.7) if setting.quick else (9, 2.0)
    figures: list[Figure] = []
    with ExitStack() as stack:
        crews = stack.enter_context(_crews(max(GOALS), setting))
        for clients, goal in GOALS.items():
            for operation in OPERATIONS:
                per_s: dict[str, list[float]] = {name: [] for name in crews}
                order = random.Random(0)
                for number in range(rounds):
                    setting.console.print(f"[dim]{clients} clients, {operation}: round {number + 1} of {rounds}[/dim]")
                    for name in order.sample(sorted(crews), len(crews)):
                        way, pipes = crews[name]
                        per_s[name].append(_calls_per_s(pipes[:clients], way, operation, seconds))
                figures += _figures(clients, operation, per_s, goal)
    return figures


def _figures(clients: int, operation: str, per_s: dict[str, list[float]], goal: Goal) -> list[Figure]:
    mine = per_s[ours.NAME]
    ordinary = next(iter(mlservers.NAMES))
    return [
        Figure(
            GROUP,
            f"{TITLES[operation]}, {clients} clients, 1 row",
            "calls/s",
            float(np.median(mine)),
            name,
            float(np.median(of)),
            goal if name == ordinary else None,
            spread(mine, of),
        )
        for name, of in per_s.items()
        if name != ours.NAME
    ]


def _calls_per_s(pipes: Sequence[Pipe], way: str, operation: str, seconds: float) -> float:
    """Computes answered calls of all clients by the time from the first call's begin to the last one's end."""
    begin_s = time.perf_counter() + _LEAD_S
    _loop(pipes, Loop(way, operation, 1, begin_s, begin_s + _SETTLE_S))
    begin_s = time.perf_counter() + _LEAD_S
    latencies_s = _loop(pipes, Loop(way, operation, 1, begin_s, begin_s + seconds))
    calls = sum(len(of) for of in latencies_s)
    return calls / max(sum(of) for of in latencies_s)


def _loop(pipes: Sequence[Pipe], told: Loop) -> list[list[float]]:
    for pipe in pipes:
        pipe.send(told)
    return [pipe.receive() for pipe in pipes]


@contextmanager
def _crews(clients: int, setting: Setting) -> Iterator[dict[str, tuple[str, list[Pipe]]]]:
    """Yields, by contender, the way its clients call, and the clients."""
    with ExitStack() as stack:
        log = Path(stack.enter_context(TemporaryDirectory(prefix="gradwire-bench-"))) / "log"
        address = stack.enter_context(ours.serve())
        command, their_log = stack.enter_context(mlservers.served())
        mine = [stack.enter_context(client(ours.client_command(address), log, ours.NAME)) for _ in range(clients)]
        theirs = [stack.enter_context(client(command, their_log, "MLServer")) for _ in range(clients)]
        for pipe in (*mine, *theirs):
            pipe.ready()
            setting.versions.update(pipe.versions)
        yield {ours.NAME: ("default", mine)} | {name: (way, theirs) for name, way in mlservers.NAMES.items()}
