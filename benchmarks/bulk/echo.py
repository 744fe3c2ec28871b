"""A process that sends back what it gets, over a Unix socket: ``python -m benchmarks.bulk.echo PATH NBYTES``.

The least that a round trip between two processes of one host can cost without shared memory: no messages, no checks, and no memory
that was not touched before.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders.remote import process


class Echo:
    """The other end of the socket.

    Args:
        connection: To the process.
        nbytes: Of a round trip.
    """

    def __init__(self, connection: socket.socket, nbytes: int) -> None:
        self._connection = connection
        self._back = memoryview(bytearray(nbytes))

    def round_trip(self, data: memoryview) -> memoryview:
        """Sends the data and gets it back. The result is overwritten by the next one."""
        self._connection.sendall(data)
        receive_all(self._connection, self._back)
        return self._back


@contextmanager
def echo(folder: Path, nbytes: int) -> Iterator[Echo]:
    """The process, as long as the context lasts."""
    path = str(folder / "echo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        with process([sys.executable, "-m", "benchmarks.bulk.echo", path, str(nbytes)], folder / "log"):
            connection, _ = listener.accept()
            with connection:
                yield Echo(connection, nbytes)


def receive_all(connection: socket.socket, into: memoryview) -> bool:
    """Fills the memory; False if the other side has ended."""
    filled = 0
    while filled < len(into):
        nbytes = connection.recv_into(into[filled:])
        if not nbytes:
            return False
        filled += nbytes
    return True


def main(path: str, nbytes: str) -> None:
    """Sends back until the other side ends."""
    memory = memoryview(bytearray(int(nbytes)))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        while receive_all(connection, memory):
            connection.sendall(memory)


if __name__ == "__main__":
    main(*sys.argv[1:])
