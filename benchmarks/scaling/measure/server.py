"""Server in a process of its own that reports the processor time of its threads and its batches on request."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_NAMES = {"gradwire-server": "loop", "gradwire-runner": "runner", "gradwire-ledger": "ledger", "gradwire-store": "store"}
"""Kinds of threads, by the beginnings of their names. Other Python threads are ``python``, threads unknown to it gRPC's."""


@dataclass(frozen=True)
class Mark:
    """A server's totals at one moment.

    Attributes:
        thread_s: Processor time by kind of thread.
        batches: Batches computed.
        blocks: Blocks in them.
        rows: Rows in them.
        compute_s: Time of computing them.
    """

    thread_s: dict[str, float]
    batches: int
    blocks: int
    rows: int
    compute_s: float

    def since(self, before: Mark) -> Mark:
        """Subtracts the totals of an earlier moment."""
        return Mark(
            {name: seconds - before.thread_s.get(name, 0.0) for name, seconds in self.thread_s.items()},
            self.batches - before.batches,
            self.blocks - before.blocks,
            self.rows - before.rows,
            self.compute_s - before.compute_s,
        )


@dataclass(frozen=True)
class Watched:
    """A server process that is ready."""

    address: str
    pipe: Connection[Any, Any]

    def mark(self) -> Mark:
        """Returns its totals now."""
        self.pipe.send("mark")
        mark: Mark = self.pipe.recv()
        return mark


@contextmanager
def watched(models: Sequence[Mapping[str, Any]], **settings: Any) -> Iterator[Watched]:
    """Serves models during the context; ``settings`` are other keys of the configuration."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, list(models), settings))
    process.start()
    theirs.close()
    try:
        yield Watched(ours.recv(), ours)
    finally:
        ours.send(None)
        process.join(15)
        if process.is_alive():
            process.kill()


def _serve(pipe: Connection[Any, Any], models: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    from gradwire.server import serving
    from gradwire.server.system import keep_freed_memory
    from gradwire.server.telemetry.batches import Tally

    keep_freed_memory()
    tallies: list[Tally] = []
    make = Tally.__init__

    def noted(tally: Tally) -> None:
        make(tally)
        tallies.append(tally)

    Tally.__init__ = noted  # type: ignore[assignment, method-assign]  # its totals are read from outside
    with serving({model.pop("name"): model for model in models}, **settings) as address:
        pipe.send(address)
        while pipe.recv() is not None:
            of = [batches for tally in tallies for batches in tally.of.values()]
            pipe.send(
                Mark(
                    _thread_s(),
                    sum(batches.batches for batches in of),
                    sum(batches.blocks for batches in of),
                    sum(batches.rows for batches in of),
                    sum(batches.seconds for batches in of),
                )
            )


def _thread_s() -> dict[str, float]:
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            nanoseconds = int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue  # it has just ended
        name = names.get(int(task.name))
        kind = "grpc" if name is None else next((kind for begin, kind in _NAMES.items() if name.startswith(begin)), "python")
        found[kind] = found.get(kind, 0.0) + nanoseconds * 1e-9
    return found
