"""Frames on Unix sockets within a host: a kind, a length, and that many bytes. See transport.proto."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

HELLO, MESSAGE, STATUS, SHARE, SHARED, FREED = range(1, 7)
"""Kinds of frames. The last three are for shared memory: see `shared`."""

HEADER = struct.Struct("<BI")

_CREDENTIALS = struct.Struct("=iII")


class Peer(NamedTuple):
    """Process at the other end of a Unix socket, as the kernel reports it."""

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """Returns the process that connected, or that listens."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(pid, uid)


def supported() -> bool:
    """True if this system has abstract Unix sockets with peer credentials: Linux has."""
    return hasattr(socket, "AF_UNIX") and hasattr(socket, "SO_PEERCRED")


def abstract(name: str) -> str:
    """Returns the address of an abstract socket: it has no file, and vanishes with the listening process."""
    return f"\0{name}"
