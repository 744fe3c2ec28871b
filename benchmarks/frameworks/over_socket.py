"""Plain code in another process behind a bare Unix socket: the least cost of a service without shared memory.

Bytes go there and back, into memory that exists already; there are no messages, checks, names or other clients. The result is a
new array, as callers want it. The process is ``python -m benchmarks.frameworks.over_socket FRAMEWORK MODEL WEIGHTS PATH``.
"""

from __future__ import annotations

import dataclasses
import importlib
import socket
import struct
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.contenders.contender import timed
from benchmarks.contenders.remote import process
from benchmarks.frameworks.setup import OPERATIONS, Setup
from benchmarks.model import Array, Inputs
from gradwire.server.system import keep_freed_memory

NAME = "plain over a socket"

_ASKED = struct.Struct("<BIII")
"""Operation, rows, bytes of the rows and of their labels."""
_ANSWERED = struct.Struct("<cB7I")
"""Dtype, number of axes, sizes."""


class OverSocket:
    """Plain code behind a socket, as a contender.

    Args:
        connection: Connected socket of the process.
        operations: The operations that it implements.
    """

    name = NAME
    versions: Mapping[str, str] = {}

    def __init__(self, connection: socket.socket, operations: Collection[str]) -> None:
        self.operations = operations
        self._connection = connection
        self._head = memoryview(bytearray(_ANSWERED.size))

    def answer(self, operation: str, inputs: Inputs) -> Array:
        """Makes one call and returns its result."""
        x, y = inputs.x, inputs.y
        asked = _ASKED.pack(OPERATIONS.index(operation), len(x), x.nbytes, y.nbytes)
        _send(self._connection, asked, x.data.cast("B"), y.data.cast("B"))
        _receive(self._connection, self._head)
        dtype, axes, *sizes = _ANSWERED.unpack(self._head)
        result = np.empty(sizes[:axes], dtype)
        if result.size:
            _receive(self._connection, result.reshape(-1).data.cast("B"))
        return result

    def times_s(self, operation: str, inputs: Inputs, calls: int) -> list[float]:
        """Makes a number of calls and returns the seconds that each took."""
        return timed(partial(self.answer, operation), inputs, calls)


@contextmanager
def over_socket(framework: str, setup: Setup, weights: Path, operations: Collection[str]) -> Iterator[OverSocket]:
    """Runs the process during the context and yields the contender."""
    with TemporaryDirectory(prefix="gradwire-bench-") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = str(Path(folder) / "socket")
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(60)
        module = setup.plain_module or framework
        command = [str(setup.environment / "python"), "-m", __spec__.name, module, setup.name, str(weights), path]
        with process(command, Path(folder) / "log"):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(None)
                yield OverSocket(connection, operations)


def main(framework: str, model: str, weights: str, path: str) -> None:
    """Answers until the other side closes. Freed memory is kept, as in a server."""
    keep_freed_memory()
    setups: Callable[[Path], list[Setup]] = importlib.import_module(f"benchmarks.frameworks.{framework}").setups
    (setup,) = (setup for setup in setups(Path(weights)) if setup.name == model)
    with setup.plain() as plain, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        head, cached = memoryview(bytearray(_ASKED.size)), dict[int, Inputs]()
        while _receive(connection, head):
            operation, rows, *_ = _ASKED.unpack(head)
            if rows not in cached:
                given = setup.inputs(rows)
                cached[rows] = dataclasses.replace(given, x=given.x.copy(), y=given.y.copy())
            inputs = cached[rows]
            for array in (inputs.x, inputs.y):
                _receive(connection, array.data.cast("B"))
            result = np.ascontiguousarray(plain.answer(OPERATIONS[operation], inputs))
            sizes = (*result.shape, *(0,) * (7 - result.ndim))
            _send(connection, _ANSWERED.pack(result.dtype.char.encode(), result.ndim, *sizes), result.reshape(-1).data.cast("B"))


def _send(connection: socket.socket, *parts: bytes | memoryview) -> None:
    left = [memoryview(part) for part in parts]
    while left:
        sent = connection.sendmsg(left)
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if sent:
            left[0] = left[0][sent:]


def _receive(connection: socket.socket, into: memoryview) -> bool:
    """Fills the memory; returns False if the other side has closed."""
    while into:
        nbytes = connection.recv_into(into)
        if not nbytes:
            return False
        into = into[nbytes:]
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
