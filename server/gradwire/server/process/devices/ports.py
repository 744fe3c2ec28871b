"""A port that several processes will listen on, and that nobody else has.

It is bound here and not listened on, so that no connection comes here, and stays bound while processes come and go. Bound before
it is opened to others of the same user (SO_REUSEPORT): whoever has it already, a second server by mistake say, is noticed.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from gradwire.server.errors import ConfigError

_TRIES = 16
"""A free port of a host's first address may be taken at its second."""


class Reserved:
    """A reserved port.

    Args:
        key: The key of the configuration, for errors.
        listen: host:port; port 0: any free one.

    Attributes:
        address: The same, with the port that it has become.

    Raises:
        ConfigError: It cannot be shared, or somebody else has it.
    """

    def __init__(self, key: str, listen: str) -> None:
        if listen.startswith("unix:"):
            raise ConfigError(f"{key}: {listen!r}: a Unix socket is one process's; with devices, expected host:port")
        host, _, port = listen.rpartition(":")
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as e:
            raise ConfigError(f"{key}: {listen!r} cannot be listened on ({e})") from e
        places = list(dict.fromkeys((family, place) for family, _, _, _, place in found))
        for _ in range(_TRIES if port == "0" else 1):
            try:
                self._sockets = _bound(places)
                break
            except OSError as e:
                error = e
        else:
            raise ConfigError(f"{key}: {listen!r} cannot be listened on; is another server there already? ({error})")
        self.address = f"{host}:{self._sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Lets others have it."""
        for bound in self._sockets:
            bound.close()


def _bound(places: Sequence[tuple[socket.AddressFamily, tuple[object, ...]]]) -> list[socket.socket]:
    """A socket at each place that this host has; all at one port. Raises OSError."""
    sockets: list[socket.socket] = []
    port: object = 0
    missing: OSError | None = None
    try:
        for family, place in places:
            try:
                sockets.append(_exclusive(family, (place[0], place[1] or port, *place[2:])))
            except OSError as e:
                # A name of the host may stand for IPv6 too, on a host that has none.
                if e.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = e
                continue
            port = sockets[-1].getsockname()[1]
        if not sockets:
            raise missing or OSError(errno.EADDRNOTAVAIL, "the name stands for no address")
    except OSError:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def _exclusive(family: socket.AddressFamily, place: tuple[object, ...]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # While it is bound only: over what an earlier server's connections have left behind, and over nothing that listens.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        bound.close()
        raise
    return bound


def metrics_address(listen: str | None, number: int) -> str | None:
    """Where the process of a number listens for scrapes: each at a port of its own, one after the other. Raises ConfigError."""
    if listen is None:
        return None
    host, _, port = listen.rpartition(":")
    if not int(port):
        return listen
    if int(port) + number > 65535:
        raise ConfigError(f"metrics_listen: {listen!r}: each process listens at a port of its own, and there is none after 65535")
    return f"{host}:{int(port) + number}"
