"""The clients of a load that live in one process: a thread and a connection each.

A closed loop sends a client's next call when the last one is answered; its latency counts from its sending. An open loop
sends calls when they are due, at a fixed rate, and latency counts from then: otherwise a server that stalls would be asked less
in the meantime, and look as if it had not ("coordinated omission": G. Tene, "How NOT to Measure Latency", and wrk2;
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
"""After a call that failed, in a closed loop: a server that refuses calls is not to be asked thousands of times a second."""

_NAP_S = 0.1
_MIX_LENGTH = 1024
"""Operations of a mix are drawn so many at a time, once."""


@dataclass(frozen=True)
class Window:
    """When things happen, by ``time.perf_counter()``, which is the same clock in all processes of a machine.

    Attributes:
        begin_s: The clients begin.
        warm_s: What begins from now on counts.
        end_s: Nothing begins any more.
    """

    begin_s: float
    warm_s: float
    end_s: float


@dataclass(frozen=True)
class Counts:
    """Calls so far, those of the warm-up included."""

    calls: int
    failed: int


@dataclass(frozen=True)
class Measured:
    """What the clients of one process have to tell in the end.

    Attributes:
        tallies: By operation.
        first_s: When the first call that counts began; infinity if there was none.
        last_s: When the last one ended.
        unsent: Calls of an open loop that were due and never made.
        cores: How many processor cores the process used, while calls count.
    """

    tallies: dict[str, Tally]
    first_s: float
    last_s: float
    unsent: int
    cores: float


class Arrivals:
    """When calls of an open loop are due. The clients of one process share it.

    Args:
        window: When they begin and end.
        period_s: Between two calls of this process.
        offset_s: Of its first call; processes take turns.
    """

    def __init__(self, window: Window, period_s: float, offset_s: float) -> None:
        self._window = window
        self._period_s = period_s
        self._first_s = window.begin_s + offset_s
        self._taken = 0
        self._lock = threading.Lock()

    def take(self) -> float | None:
        """When the next call is due, maybe in the past; None when the time is over."""
        with self._lock:
            now_s = time.perf_counter()
            if now_s >= self._window.warm_s:
                # What the warm-up has not come to is not made up for while time is taken.
                self._taken = max(self._taken, self._number(self._window.warm_s))
            due_s = self._due_s(self._taken)
            if max(due_s, now_s) >= self._window.end_s:
                return None
            self._taken += 1
            return due_s

    def unsent(self, now_s: float) -> int:
        """How many calls that would count are due by now and have not been taken."""
        until_s = min(now_s, self._window.end_s)
        return max(0, self._number(until_s) - max(self._taken, self._number(self._window.warm_s)))

    def _due_s(self, number: int) -> float:
        return self._first_s + number * self._period_s

    def _number(self, until_s: float) -> int:
        """How many are due before then."""
        return max(0, math.ceil((until_s - self._first_s) / self._period_s))


SomeCall: TypeAlias = tuple[str, Callable[[], object]]


class Clients:
    """Some of the clients of one step. A context manager, which closes their connections.

    Args:
        target: What they call.
        inputs: With what.
        step: How.
        numbers: Which of the step's clients these are.
        seed: Of their rows and their order.
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
        """Starts them.

        Args:
            window: When.
            rate_per_s: Of all processes' calls in an open loop; None: a closed loop.
            share: Which of the processes this is.
            shares: How many there are.
        """
        if rate_per_s is not None:
            self._arrivals = Arrivals(window, shares / rate_per_s, share / rate_per_s)
        for client in self._clients:
            client.begin(window, self._arrivals)

    def ended(self, window: Window) -> bool:
        """Whether all of them have; asked now and then, it notes from when on processor time counts."""
        now_s = time.perf_counter()
        if self._cpu_s is None and now_s >= window.warm_s:
            self._cpu_s = (time.process_time(), now_s)
        return not any(client.is_alive() for client in self._clients)

    def stop(self) -> None:
        """Lets nothing begin any more."""
        self._stopped.set()

    @property
    def counts(self) -> Counts:
        """Up to now."""
        return Counts(sum(client.calls for client in self._clients), sum(client.failed for client in self._clients))

    def measured(self) -> Measured:
        """What has been measured up to now; calls that are under way are left out."""
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
        """Ends calls that are still under way."""
        self.stop()
        for server in self._servers:
            server.close()


class _Client(threading.Thread):
    """One client: calls, one at a time.

    Args:
        order: What to call, over and over.
        stopped: Set when nothing is to begin any more.
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
        self._sleep_until(self._window.begin_s)
        if self._arrivals is None:
            self._closed_loop(self._window)
        else:
            self._open_loop(self._window, self._arrivals)

    def _closed_loop(self, window: Window) -> None:
        for operation, call in itertools.cycle(self._order):
            begin_s = time.perf_counter()
            # One call counts in any case, however slow the server.
            if self._stopped.is_set() or (begin_s >= window.end_s and self.last_s):
                return
            error = self._call(operation, call, begin_s, begin_s >= window.warm_s)
            if error is not None:
                asked_s = error.retry_after_s if isinstance(error, GradwireError) else None
                self._stopped.wait(min(max(_LEAST_PAUSE_S, asked_s or 0.0), _MOST_PAUSE_S))

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
        except Exception as e:  # whatever it is: the report names it
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
    """Which calls a client makes, one after the other."""
    if len(step.mix) == 1:
        [(operation, _)] = step.mix
        return [(operation, call) for call in calls[operation]]
    turns = {operation: itertools.cycle(of) for operation, of in calls.items()}
    drawn = rng.choice(len(step.mix), _MIX_LENGTH, p=[weight for _, weight in step.mix])
    return [(step.mix[i][0], next(turns[step.mix[i][0]])) for i in drawn]
