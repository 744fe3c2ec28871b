"""Clients in processes of their own; each thread has a connection and one call at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.scaling.measure.processes import piped

_MOST_PROCESSES = 16


@dataclass(frozen=True)
class Ask:
    """The call that a client makes.

    Attributes:
        model: Name of the model.
        operation: ``predict`` or ``loss_gradient``.
        rows: Rows of a call.
        way: One of `workload.WAYS`.
        refused: True if calls may be refused; they count too.
    """

    model: str
    operation: str
    rows: int
    way: str
    refused: bool = False


@dataclass(frozen=True)
class Called:
    """Calls of all clients together, their processor time, and the median of their latencies."""

    calls: int
    cpu_s: float
    p50_s: float


class Crew:
    """Clients that are connected and wait for `begin`. Made by `crew`."""

    def __init__(self, pipes: list[Connection[Any, Any]]) -> None:
        self._pipes = pipes

    def begin(self) -> None:
        """Starts calls, as fast as they are answered."""
        for pipe in self._pipes:
            pipe.send("begin")

    def end(self) -> Called:
        """Ends the calls after those under way; returns the totals."""
        for pipe in self._pipes:
            pipe.send("end")
        found = [pipe.recv() for pipe in self._pipes]
        latencies_s = np.concatenate([latencies for _, latencies in found])
        return Called(len(latencies_s), sum(cpu_s for cpu_s, _ in found), float(np.median(latencies_s)))


@contextmanager
def crew(address: str, ask: Ask, clients: int) -> Iterator[Crew]:
    """Runs clients of a server during the context."""
    processes = min(clients, _MOST_PROCESSES)
    threads = [clients * (number + 1) // processes - clients * number // processes for number in range(processes)]
    with piped(_work, [(address, ask, count) for count in threads]) as pipes:
        yield Crew(pipes)


def _work(pipe: Connection[Any, Any], address: str, ask: Ask, threads: int) -> None:
    from gradwire.client import Retry, connect

    servers = [connect(address, same_host=ask.way == "socket", retry=Retry(attempts=1)) for _ in range(threads)]
    calls = [_call(server, ask) for server in servers]
    for call in calls:
        call()
    pipe.send("ready")
    pipe.recv()
    stopped = threading.Event()
    latencies_s: list[list[float]] = [[] for _ in calls]

    def loop(call: Callable[[], object], into: list[float]) -> None:
        while not stopped.is_set():
            began_s = time.perf_counter()
            call()
            into.append(time.perf_counter() - began_s)

    began_s = time.process_time()
    running = [threading.Thread(target=loop, args=pair) for pair in zip(calls, latencies_s, strict=True)]
    for thread in running:
        thread.start()
    pipe.recv()
    stopped.set()
    for thread in running:
        thread.join()
    pipe.send((time.process_time() - began_s, np.concatenate([np.array(of) for of in latencies_s])))


def _call(server: Any, ask: Ask) -> Callable[[], object]:
    from gradwire.client.errors import GradwireError

    remote = server.estimator(ask.model)
    if ask.way == "codecs":
        remote = remote.with_codecs(inputs="bfloat16", gradients="sign")
    rng = np.random.default_rng(0)
    x = rng.random((ask.rows, *remote.card.input_shape), np.float32)
    y = rng.integers(0, 10, ask.rows)

    def asked() -> object:
        return remote.predict(x) if ask.operation == "predict" else remote.loss_gradient(x, y)

    if not ask.refused:
        return asked

    def refused() -> None:
        with suppress(GradwireError):
            asked()

    return refused
