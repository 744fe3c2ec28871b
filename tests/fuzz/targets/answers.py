"""Any bytes as what a server on this host answers, read by the client from a real socket.

What holds: the client gets an array, or one of its own errors; never more memory than there are bytes and an announced result.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import lru_cache

import grpc
import numpy as np

from gradwire.client.errors import Unavailable, error_of, error_of_wire
from gradwire.client.transport.same_host import SocketStream
from gradwire.wire.errors import WireError
from gradwire.wire.sockets import abstract

_NAME = "gradwire-fuzz"
_ROWS = np.zeros((2, 4), np.float32)


@lru_cache(maxsize=1)
def _listener() -> tuple[socket.socket, str]:
    name = f"{_NAME}-{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(abstract(name))
    listener.listen()
    return listener, name


def one_input(data: bytes) -> None:
    """Answers one stream's calls with the bytes, and hangs up. An odd last byte offers memory first."""
    listener, name = _listener()
    stream = SocketStream(name, "Predict", "fuzz", ())
    served, _ = listener.accept()
    try:
        served.setblocking(False)
        with suppress(BlockingIOError):
            served.send(data[:65536])
        served.shutdown(socket.SHUT_WR)
        if data and data[-1] & 1:
            stream._large_answer = True
        for _ in range(3):
            stream.send_call(b"", [])
            stream.result()
    except grpc.RpcError as e:
        error_of(e, "here")
    except WireError as e:
        error_of_wire(e)
    except Unavailable:
        pass
    finally:
        stream.close()
        served.close()
