"""The processes that clients live in, and what is said to them.

Each gets an order over its pipe and answers None when it is ready; then it gets a `Window`, and answers counts while its clients
call and what they have measured at last. None to it means to end early. It also ends when its pipe does, however that came.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from gradwire.client.errors import GradwireError
from gradwire.client.load.calls import Inputs
from gradwire.client.load.clients import Clients, Window
from gradwire.client.load.plan import Load, Step, Target

_LOOK_S = 0.1
_LEAVE_S = 2.0
"""Calls that are under way get so much time to end when a measurement is ended early."""


@dataclass(frozen=True)
class Order:
    """What a process of clients is to prepare."""

    step: Step
    share: int
    shares: int


@contextmanager
def crews(load: Load) -> Iterator[list[Connection[Any, Any]]]:
    """A pipe to each process of clients, or to the one thread that stands for them."""
    pipes: list[Connection[Any, Any]] = []
    begun: list[multiprocessing.process.BaseProcess | threading.Thread] = []
    most = max((step.concurrency for step in load.steps), default=0)
    try:
        with _no_interrupts():
            for _ in range(min(max(1, load.processes), most)):
                ours, theirs = Pipe()
                pipes.append(ours)
                told = (theirs, load.target, load.inputs, load.seed, load.rate_per_s)
                if load.processes:
                    process = multiprocessing.get_context("spawn").Process(target=_process, args=told, daemon=True)
                    begun.append(process)
                    process.start()
                    theirs.close()
                else:
                    thread = threading.Thread(target=_serve, args=told, name="gradwire-load", daemon=True)
                    begun.append(thread)
                    thread.start()
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for crew in begun:
            _end(crew)


def say(pipe: Connection[Any, Any], message: Order | Window | None) -> None:
    """Says something to a process. Raises GradwireError if it has died."""
    try:
        pipe.send(message)
    except OSError:
        raise _died() from None


def ready(pipes: set[Connection[Any, Any]]) -> list[Connection[Any, Any]]:
    """Those over which something has come, or comes within a moment."""
    return [pipe for pipe in wait(list(pipes), _LOOK_S) if isinstance(pipe, Connection)]


def received(pipe: Connection[Any, Any]) -> Any:
    """What a process has answered. Raises GradwireError if it has died."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        raise _died() from None


# Inside.


def _died() -> GradwireError:
    return GradwireError(
        "a process of clients has ended before its time; stderr may say why (memory?). "
        'A script must run a load under `if __name__ == "__main__":`, or with processes=0'
    )


def _end(crew: multiprocessing.process.BaseProcess | threading.Thread) -> None:
    if isinstance(crew, threading.Thread):
        crew.join(_LEAVE_S)
    elif crew.pid is not None:
        crew.join(_LEAVE_S)
        if crew.is_alive():
            crew.kill()
            crew.join()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes that begin meanwhile ignore Ctrl-C from their first moment: a terminal sends it to all, and this one decides."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)


def _process(pipe: Connection[Any, Any], *told: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve(pipe, *told)


def _serve(pipe: Connection[Any, Any], target: Target, inputs: Inputs, seed: int, rate_per_s: float | None) -> None:
    """Does what it is told, until the pipe ends or says so."""
    with pipe, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while (order := pipe.recv()) is not None:
            numbers = range(order.share, order.step.concurrency, order.shares)
            with Clients(target, inputs, order.step, numbers, seed) as clients:
                pipe.send(None)
                window = pipe.recv()
                if window is None:
                    return
                clients.start(window, rate_per_s, order.share, order.shares)
                leave_s = math.inf
                while not clients.ended(window) and time.perf_counter() < leave_s:
                    if pipe.poll(_LOOK_S):
                        pipe.recv()
                        clients.stop()
                        leave_s = time.perf_counter() + _LEAVE_S
                    pipe.send(clients.counts)
                pipe.send(clients.measured())
