"""Processes that work side by side, each with a pipe to this one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any


@contextmanager
def piped(work: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> Iterator[list[Connection[Any, Any]]]:
    """Runs a process for each tuple of arguments during the context.

    Args:
        work: The function that each runs, with its pipe and its arguments. It sends one message when it is ready.
        arguments: The arguments of each process.

    Yields:
        The pipes, when all processes are ready.
    """
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes = []
        for given in arguments:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, *given), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.kill)
            pipes.append(ours)
        for pipe in pipes:
            pipe.recv()
        yield pipes
