"""Frames on the Unix sockets of one host: a kind, a length, and that many bytes. See transport.proto."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

HELLO, MESSAGE, STATUS, SHARE, SHARED, FREED = range(1, 7)
"""Kinds of frames. The last three are about memory that both sides share: see `shared`."""

HEADER = struct.Struct("<BI")

_CREDENTIALS = struct.Struct("=iII")


class Peer(NamedTuple):
    """Who is at the other end of a Unix socket, by the kernel's word."""

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """The process that connected, or that listens."""
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(pid, uid)


def supported() -> bool:
    """Whether this system has abstract Unix sockets whose peers it can name: Linux does."""
    return hasattr(socket, "AF_UNIX") and hasattr(socket, "SO_PEERCRED")


def abstract(name: str) -> str:
    """The address of the abstract socket of that name: it has no file, and ends with the process that listens."""
    return f"\0{name}"
