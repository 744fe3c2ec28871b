"""A TCP proxy that cuts connections: not between messages, and not always with a word."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import struct
import threading
from collections.abc import Iterator, Sequence


class CuttingProxy:
    """Relays to several addresses in turn, a connection each, and cuts each connection after a random number of pieces.

    Args:
        addresses: ``host:port`` of each server.
        seed: Of when it cuts.
        pieces: Least and most that pass a connection, either way, before it is cut.

    Attributes:
        cuts: How many connections it has cut.
    """

    def __init__(self, addresses: Sequence[str], seed: int, pieces: tuple[int, int]) -> None:
        self.cuts = 0
        self._addresses = itertools.cycle(addresses)
        self._chance = random.Random(seed)
        self._pieces = pieces
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            host, _, port = next(self._addresses).rpartition(":")
            try:
                far = socket.create_connection((host, int(port)), timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {near, far}
                left = iter(range(self._chance.randint(*self._pieces)))
                with_reset = self._chance.random() < 0.5
            for here, there in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(here, there, left, with_reset), daemon=True).start()

    def _relay(self, here: socket.socket, there: socket.socket, left: Iterator[int], with_reset: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := here.recv(1 << 16):
                with self._lock:
                    cut = next(left, None) is None
                if cut:
                    self.cuts += 1
                    break
                there.sendall(piece)
        for end in (here, there):
            with contextlib.suppress(OSError):
                if with_reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Whoever waits for more in the other thread is woken, or the connection would stay.
                end.shutdown(socket.SHUT_RD if with_reset else socket.SHUT_RDWR)
            end.close()
        with self._lock:
            self._open -= {here, there}


@contextlib.contextmanager
def cutting(addresses: Sequence[str], *, seed: int, pieces: tuple[int, int]) -> Iterator[CuttingProxy]:
    """A proxy, as long as the context lasts."""
    proxy = CuttingProxy(addresses, seed, pieces)
    try:
        yield proxy
    finally:
        proxy.close()
