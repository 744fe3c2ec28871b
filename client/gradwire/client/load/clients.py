"""Clients of a load in one process: each has a thread and a connection.

A closed loop sends a client's next call when the last is answered; latency counts from sending. An open loop sends calls when
they are due, at a fixed rate, and latency counts from then: otherwise a server that stalls would get fewer calls in the
meantime and look better than it is ("coordinated omission": G. Tene, "How NOT to Measure Latency", and wrk2;
Schroeder, Wierman, Harchol-Balter, "Open Versus Closed: A Cautionary Tale", NSDI 2006).
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from gradwire.client.errors import GradwireError
from gradwire.client.estimator import RemoteEstimator
from gradwire.client.load.calls import OPERATIONS, Inputs, batches
from gradwire.client.load.plan import Step, Target
from gradwire.client.load.tally import Tally

_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.02, 1.0
"""Pause after a failed call in a closed loop: a server that rejects calls should not get thousands of them a second."""

_NAP_S = 0.1
_MIX_LENGTH = 1024
"""Length of the random order of a mix's operations, which is drawn once."""


@dataclass(frozen=True)
class Window:
    """Times of a measurement by ``time.perf_counter()``, the same clock in all processes of a machine.

    Attributes:
        begin_s: The clients begin.
        warm_s: Calls that begin from now on count.
        end_s: No further call begins.
    """

    begin_s: float
    warm_s: float
    end_s: float


@dataclass(frozen=True)
class Counts:
    """Calls so far, including the warm-up."""

    calls: int
    failed: int


@dataclass(frozen=True)
class Measured:
    """Results of the clients of one process.

    Attributes:
        tallies: Tallies by operation.
        first_s: When the first call that counts began; infinity without one.
        last_s: When the last call ended.
        unsent: Calls of an open loop that were due and never made.
        cores: Processor cores that the process used while calls counted.
    """

    tallies: dict[str, Tally]
    first_s: float
    last_s: float
    unsent: int
    cores: float


class Arrivals:
    """Due times of the calls of an open loop, shared by the clients of one process.

    Args:
        window: Begin and end of the calls.
        period_s: Time between two calls of this process.
        offset_s: Offset of its first call; processes alternate.
    """

    def __init__(self, window: Window, period_s: float, offset_s: float) -> None:
        self._window = window
        self._period_s = period_s
        self._first_s = window.begin_s + offset_s
        self._taken = 0
        self._lock = threading.Lock()

    def take(self) -> float | None:
        """Returns when the next call is due, possibly in the past; None after the end."""
        with self._lock:
            now_s = time.perf_counter()
            if now_s >= self._window.warm_s:
                # Calls missed in the warm-up are not made up for in the measurement.
                self._taken = max(self._taken, self._number(self._window.warm_s))
            due_s = self._due_s(self._taken)
            if max(due_s, now_s) >= self._window.end_s:
                return None
            self._taken += 1
            return due_s

    def unsent(self, now_s: float) -> int:
        """Returns the number of counting calls that are due by now and were not taken."""
        until_s = min(now_s, self._window.end_s)
        return max(0, self._number(until_s) - max(self._taken, self._number(self._window.warm_s)))

    def _due_s(self, number: int) -> float:
        return self._first_s + number * self._period_s

    def _number(self, until_s: float) -> int:
        """Returns the number of calls due before ``until_s``."""
        return max(0, math.ceil((until_s - self._first_s) / self._period_s))


SomeCall: TypeAlias = tuple[str, Callable[[], object]]


class Clients:
    """Clients of one step in this process. A context manager that closes their connections.

    Args:
        target: The model to call.
        inputs: Shapes of the arguments.
        step: The measurement.
        numbers: Numbers of these clients among the step's clients.
        seed: Seed of their rows and their order.
    """

    def __init__(self, target: Target, inputs: Inputs, step: Step, numbers: range, seed: int) -> None:
        self._step = step
        self._stopped = threading.Event()
        self._servers = [target.connect() for _ in numbers]
        pool = batches(step.rows, inputs, np.random.default_rng([seed, numbers.start]))
        self._clients: list[_Client] = []
        for number, server in zip(numbers, self._servers, strict=True):
            remote = RemoteEstimator(server, inputs.card)
            turned = pool[number % len(pool) :] + pool[: number % len(pool)]
            calls: dict[str, list[Callable[[], object]]] = {
                operation: [partial(OPERATIONS[operation].call, remote, batch) for batch in turned] for operation, _ in step.mix
            }
            self._clients.append(_Client(_order(step, calls, np.random.default_rng([seed, number])), self._stopped))
        self._arrivals: Arrivals | None = None
        self._cpu_s: tuple[float, float] | None = None

    def start(self, window: Window, rate_per_s: float | None, share: int, shares: int) -> None:
        """Starts the clients.

        Args:
            window: Times of the measurement.
            rate_per_s: Rate of all processes' calls in an open loop; None: a closed loop.
            share: Number of this process.
            shares: Number of processes.
        """
        if rate_per_s is not None:
            self._arrivals = Arrivals(window, shares / rate_per_s, share / rate_per_s)
        for client in self._clients:
            client.begin(window, self._arrivals)

    def ended(self, window: Window) -> bool:
        """True if all clients have ended. Called regularly; it also notes the processor time at the end of the warm-up."""
        now_s = time.perf_counter()
        if self._cpu_s is None and now_s >= window.warm_s:
            self._cpu_s = (time.process_time(), now_s)
        return not any(client.is_alive() for client in self._clients)

    def stop(self) -> None:
        """Prevents further calls from beginning."""
        self._stopped.set()

    @property
    def counts(self) -> Counts:
        """Counts up to now."""
        return Counts(sum(client.calls for client in self._clients), sum(client.failed for client in self._clients))

    def measured(self) -> Measured:
        """Returns the results up to now, without calls that still run."""
        now_s = time.perf_counter()
        begun_cpu_s, begun_s = self._cpu_s or (time.process_time(), now_s)
        tallies = {operation: Tally() for operation, _ in self._step.mix}
        for client in self._clients:
            for operation, tally in client.tallies.items():
                tallies[operation].add(tally)
        return Measured(
            tallies=tallies,
            first_s=min((client.first_s for client in self._clients), default=float("inf")),
            last_s=max((client.last_s for client in self._clients), default=0.0),
            unsent=0 if self._arrivals is None else self._arrivals.unsent(now_s),
            cores=(time.process_time() - begun_cpu_s) / (now_s - begun_s) if now_s > begun_s else 0.0,
        )

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        """Cancels calls that still run."""
        self.stop()
        for server in self._servers:
            server.close()


class _Client(threading.Thread):
    """A client: makes one call at a time.

    Args:
        order: Calls to repeat in this order.
        stopped: Set when no further call may begin.
    """

    def __init__(self, order: list[SomeCall], stopped: threading.Event) -> None:
        super().__init__(name="gradwire-load", daemon=True)
        self._order = order
        self._stopped = stopped
        self.tallies = {operation: Tally() for operation, _ in order}
        self.calls = self.failed = 0
        self.first_s, self.last_s = float("inf"), 0.0

    def begin(self, window: Window, arrivals: Arrivals | None) -> None:
        """Starts the thread."""
        self._window = window
        self._arrivals = arrivals
        self.start()

    def run(self) -> None:
        """Calls until the window ends."""
        self._sleep_until(self._window.begin_s)
        if self._arrivals is None:
            self._closed_loop(self._window)
        else:
            self._open_loop(self._window, self._arrivals)

    def _closed_loop(self, window: Window) -> None:
        for operation, call in itertools.cycle(self._order):
            begin_s = time.perf_counter()
            # At least one call counts, however slow the server.
            if self._stopped.is_set() or (begin_s >= window.end_s and self.last_s):
                return
            error = self._call(operation, call, begin_s, begin_s >= window.warm_s)
            if error is not None:
                hint_s = error.retry_after_s if isinstance(error, GradwireError) else None
                self._stopped.wait(min(max(_LEAST_PAUSE_S, hint_s or 0.0), _MOST_PAUSE_S))

    def _open_loop(self, window: Window, arrivals: Arrivals) -> None:
        for operation, call in itertools.cycle(self._order):
            due_s = arrivals.take()
            if due_s is None:
                return
            self._sleep_until(due_s)
            if self._stopped.is_set():
                return
            self._call(operation, call, due_s, due_s >= window.warm_s)

    def _call(self, operation: str, call: Callable[[], object], since_s: float, counts: bool) -> Exception | None:
        error: Exception | None = None
        try:
            call()
        except Exception as e:  # the report names the error
            error = e
            self.failed += 1
        now_s = time.perf_counter()
        self.calls += 1
        if counts:
            self.first_s = min(self.first_s, since_s)
            self.last_s = now_s
            if error is None:
                self.tallies[operation].latencies_s.append(now_s - since_s)
            else:
                self.tallies[operation].failed(error)
        return error

    def _sleep_until(self, due_s: float) -> None:
        while (left_s := due_s - time.perf_counter()) > 0 and not self._stopped.is_set():
            time.sleep(min(left_s, _NAP_S))


def _order(step: Step, calls: dict[str, list[Callable[[], object]]], rng: np.random.Generator) -> list[SomeCall]:
    """Returns the order of a client's calls."""
    if len(step.mix) == 1:
        [(operation, _)] = step.mix
        return [(operation, call) for call in calls[operation]]
    turns = {operation: itertools.cycle(of) for operation, of in calls.items()}
    drawn = rng.choice(len(step.mix), _MIX_LENGTH, p=[weight for _, weight in step.mix])
    return [(step.mix[i][0], next(turns[step.mix[i][0]])) for i in drawn]
