"""Processes of clients, and the protocol of their pipes.

A process gets an order over its pipe and answers None when it is ready. Then it gets a `Window`, and answers counts while its
clients call and their results at the end. None stops it early. It also ends when its pipe closes.
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
"""Time for running calls to finish when a measurement is stopped early."""


@dataclass(frozen=True)
class Order:
    """Order to a process of clients to prepare a step."""

    step: Step
    share: int
    shares: int


@contextmanager
def crews(load: Load) -> Iterator[list[Connection[Any, Any]]]:
    """Starts the processes of clients, or one thread in their place, and yields a pipe to each."""
    pipes: list[Connection[Any, Any]] = []
    begun: list[multiprocessing.process.BaseProcess | threading.Thread] = []
    most = max((step.concurrency for step in load.steps), default=0)
    try:
        with _no_interrupts():
            for _ in range(min(max(1, load.processes), most)):
                ours, theirs = Pipe()
                pipes.append(ours)
                args = (theirs, load.target, load.inputs, load.seed, load.rate_per_s)
                if load.processes:
                    process = multiprocessing.get_context("spawn").Process(target=_process, args=args, daemon=True)
                    begun.append(process)
                    process.start()
                    theirs.close()
                else:
                    thread = threading.Thread(target=_serve, args=args, name="gradwire-load", daemon=True)
                    begun.append(thread)
                    thread.start()
        yield pipes
    finally:
        for pipe in pipes:
            pipe.close()
        for crew in begun:
            _end(crew)


def send(pipe: Connection[Any, Any], message: Order | Window | None) -> None:
    """Sends a message to a process. Raises GradwireError if it has died."""
    try:
        pipe.send(message)
    except OSError:
        raise _died() from None


def ready(pipes: set[Connection[Any, Any]]) -> list[Connection[Any, Any]]:
    """Returns the pipes with a message, after a short wait."""
    return [pipe for pipe in wait(list(pipes), _LOOK_S) if isinstance(pipe, Connection)]


def received(pipe: Connection[Any, Any]) -> Any:
    """Receives a message of a process. Raises GradwireError if it has died."""
    try:
        return pipe.recv()
    except (EOFError, OSError):
        raise _died() from None


# Inside.


def _died() -> GradwireError:
    return GradwireError(
        "a process of clients ended unexpectedly; see stderr for the reason (memory?). "
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
    """Lets processes started meanwhile ignore Ctrl-C: a terminal sends it to all, and only this process handles it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)


def _process(pipe: Connection[Any, Any], *args: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve(pipe, *args)


def _serve(pipe: Connection[Any, Any], target: Target, inputs: Inputs, seed: int, rate_per_s: float | None) -> None:
    """Carries out orders until the pipe closes or None arrives."""
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
