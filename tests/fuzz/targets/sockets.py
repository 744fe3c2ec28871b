"""Any bytes on the server's Unix socket: frames, in pieces of any size, with shared memory, up to the servicers of a real model.

An input is pieces: two bytes of a length (little-endian) and what comes at once. Between pieces the server has time to answer.
What holds: the connection ends, with nothing left; never with "the server failed".
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from fuzz.served import ended_well, loop, nothing_unseen, same_host
from fuzz.targets.requests import split
from google.rpc.status_pb2 import Status

from gradwire.server.transport.same_host import Connection, SameHost
from gradwire.wire.shared import create
from gradwire.wire.sockets import HEADER, STATUS

FILE = 200
"""Where inputs find memory to share."""
_PATIENCE_S = 5.0


class Line(asyncio.Transport):
    """Takes what the server sends; a real socket is behind it for the kernel's word on who is there."""

    def __init__(self) -> None:
        super().__init__()
        self.socket, self.other = socket.socketpair()
        self.sent = bytearray()
        self.closed = False
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    def write(self, data: Any) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def _memory() -> None:
    if not os.path.exists(f"/proc/self/fd/{FILE}"):
        file = create()
        os.dup2(file, FILE)
        os.close(file)


def one_input(data: bytes) -> None:
    """Serves one connection."""
    _memory()
    host = same_host()
    with nothing_unseen():
        loop().run_until_complete(_serve(host, split(data)))


async def _serve(host: SameHost, pieces: list[bytes]) -> None:
    line = Line()
    connection = Connection(host)
    connection.connection_made(line)
    try:
        for piece in pieces:
            at = 0
            while at < len(piece) and not line.closed and not line.paused:
                room = connection.get_buffer(-1)
                assert len(room), "a full buffer is waited for, and never read"
                n = min(len(room), len(piece) - at)
                room[:n] = piece[at : at + n]
                del room
                connection.buffer_updated(n)
                at += n
            await _quiet(connection)
        _check(bytes(line.sent))
    finally:
        connection.connection_lost(None)
        if connection.task is not None:
            await asyncio.wait({connection.task}, timeout=_PATIENCE_S)
            assert connection.task.done(), "the connection is gone, and its call is not"
        line.socket.close()
        line.other.close()


async def _quiet(connection: Connection) -> None:
    """Waits until the server waits."""
    due_s = asyncio.get_running_loop().time() + _PATIENCE_S
    while (task := connection.task) is not None and not task.done():
        waits = connection._reader is not None and not connection._reader.done() and not connection._messages
        if waits or (connection._writer is not None and not connection._writer.done()):
            return
        assert asyncio.get_running_loop().time() < due_s, "the server neither answers nor waits"
        await asyncio.sleep(0)


def _check(sent: bytes) -> None:
    at = 0
    while at < len(sent):
        kind, length = HEADER.unpack_from(sent, at)
        at += HEADER.size
        assert at + length <= len(sent), "half a frame was sent"
        if kind == STATUS:
            status = Status.FromString(sent[at : at + length])
            ended_well(status.code, status.message)
        at += length
