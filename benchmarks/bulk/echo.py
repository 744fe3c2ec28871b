"""Echo process on a Unix socket, the floor of a round trip: ``python -m benchmarks.bulk.echo PATH NBYTES``.

This is the least that a round trip between two processes of one host can cost without shared memory: no messages, no checks, and
only memory that was used before.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders.remote import process


class Echo:
    """A connection to the echo process.

    Args:
        connection: The connected socket.
        nbytes: Bytes of a round trip, each way.
    """

    def __init__(self, connection: socket.socket, nbytes: int) -> None:
        self._connection = connection
        self._back = memoryview(bytearray(nbytes))

    def round_trip(self, data: memoryview) -> memoryview:
        """Sends the data and receives it back. The next round trip overwrites the result."""
        self._connection.sendall(data)
        receive_all(self._connection, self._back)
        return self._back


@contextmanager
def echo(folder: Path, nbytes: int) -> Iterator[Echo]:
    """Runs the process during the context."""
    path = str(folder / "echo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        with process([sys.executable, "-m", "benchmarks.bulk.echo", path, str(nbytes)], folder / "log"):
            connection, _ = listener.accept()
            with connection:
                yield Echo(connection, nbytes)


def receive_all(connection: socket.socket, into: memoryview) -> bool:
    """Fills the memory; returns False if the other side has closed."""
    filled = 0
    while filled < len(into):
        nbytes = connection.recv_into(into[filled:])
        if not nbytes:
            return False
        filled += nbytes
    return True


def main(path: str, nbytes: str) -> None:
    """Sends everything back until the other side closes."""
    memory = memoryview(bytearray(int(nbytes)))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        while receive_all(connection, memory):
            connection.sendall(memory)


if __name__ == "__main__":
    main(*sys.argv[1:])
