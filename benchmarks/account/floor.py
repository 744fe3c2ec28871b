"""The least cost of a message and its answer between two processes.

The answering process is ``python -m benchmarks.account.floor KIND ADDRESS THERE BACK``. Nothing is parsed, checked or computed;
only the system and the transport take time.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np

from benchmarks.bulk.echo import receive_all
from benchmarks.contenders.remote import free_ports, process
from benchmarks.model import Array

KINDS = {
    "blocking": "Unix socket, both sides block",
    "asyncio": "Unix socket, the server is an event loop",
    "grpc": "gRPC, an open stream, the server is an event loop",
}
_METHOD = "/floor/Echo"
_SERVICE, _NAME = _METHOD[1:].split("/")
_READY_S = 30.0


def floor_us(kind: str, there: int, back: int, calls: int) -> Array:
    """Measures the microseconds of round trips, ``(calls,)``.

    Args:
        kind: One of `KINDS`.
        there: Bytes to the server.
        back: Bytes from it.
        calls: Number of round trips after a warm-up.
    """
    data = bytes(there)
    with _answering(kind, there, back) as round_trip:
        for _ in range(50):
            round_trip(data)
        times = []
        for _ in range(calls):
            begin_s = time.perf_counter()
            round_trip(data)
            times.append(time.perf_counter() - begin_s)
    return np.array(times) * 1e6


@contextmanager
def _answering(kind: str, there: int, back: int) -> Iterator[Callable[[bytes], object]]:
    with tempfile.TemporaryDirectory(prefix="gradwire-bench-") as name:
        address = str(free_ports(1)[0]) if kind == "grpc" else str(Path(name) / "socket")
        command = [sys.executable, "-m", "benchmarks.account.floor", kind, address, str(there), str(back)]
        with process(command, Path(name) / "log"):
            if kind == "grpc":
                with grpc.insecure_channel(f"127.0.0.1:{address}") as channel:
                    grpc.channel_ready_future(channel).result(_READY_S)
                    messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
                    answers = channel.stream_stream(_METHOD)(iter(messages.get, None))

                    def on_stream(data: bytes) -> object:
                        messages.put(data)
                        return next(answers)

                    yield on_stream
                    messages.put(None)
            else:
                with _connected(address) as connection:
                    into = memoryview(bytearray(back))

                    def on_socket(data: bytes) -> object:
                        connection.sendall(data)
                        return receive_all(connection, into)

                    yield on_socket


def _connected(path: str) -> socket.socket:
    until_s = time.monotonic() + _READY_S
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
            return connection
        except OSError:
            connection.close()
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)


class _Answers(asyncio.BufferedProtocol):
    def __init__(self, there: int, answer: bytes) -> None:
        self._memory = memoryview(bytearray(there))
        self._filled = 0
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._memory[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled == len(self._memory):
            self._filled = 0
            self._transport.write(self._answer)


async def _serve_loop(path: str, there: int, answer: bytes) -> None:
    server = await asyncio.get_running_loop().create_unix_server(lambda: _Answers(there, answer), path)
    await server.serve_forever()


async def _serve_grpc(port: str, answer: bytes) -> None:
    async def echo(_: object, context: grpc.aio.ServicerContext) -> None:
        while await context.read() is not grpc.aio.EOF:
            await context.write(answer)

    server = grpc.aio.server()
    handlers = grpc.method_handlers_generic_handler(_SERVICE, {_NAME: grpc.stream_stream_rpc_method_handler(echo)})
    server.add_generic_rpc_handlers((handlers,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def _serve_blocking(path: str, there: int, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        connection, _ = listener.accept()
        into = memoryview(bytearray(there))
        while receive_all(connection, into):
            connection.sendall(answer)


def main(kind: str, address: str, there: str, back: str) -> None:
    """Answers until the process is ended."""
    answer = bytes(int(back))
    if kind == "blocking":
        _serve_blocking(address, int(there), answer)
    elif kind == "asyncio":
        asyncio.run(_serve_loop(address, int(there), answer))
    else:
        asyncio.run(_serve_grpc(address, answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
