"""Reservation of the port that several processes of one server share.

The supervisor binds it without listening, so that it receives no connections, and keeps it bound while processes start and end.
It binds before it allows sharing with the same user (SO_REUSEPORT), so that a port already in use, by a second server started
by mistake for example, is an error.
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
        listen: host:port; port 0 is any free one.

    Attributes:
        address: host:port with the reserved port.

    Raises:
        ConfigError: The address cannot be shared, or is already in use.
    """

    def __init__(self, key: str, listen: str) -> None:
        if listen.startswith("unix:"):
            raise ConfigError(f"{key}: {listen!r}: processes cannot share a Unix socket; with devices, expected host:port")
        host, _, port = listen.rpartition(":")
        try:
            resolved = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as e:
            raise ConfigError(f"{key}: cannot listen on {listen!r} ({e})") from e
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in resolved))
        for _ in range(_TRIES if port == "0" else 1):
            try:
                self._sockets = _bind_all(addresses)
                break
            except OSError as e:
                error = e
        else:
            raise ConfigError(f"{key}: cannot listen on {listen!r}; is another server running there? ({error})")
        self.address = f"{host}:{self._sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Releases the port."""
        for bound in self._sockets:
            bound.close()


def _bind_all(addresses: Sequence[tuple[socket.AddressFamily, tuple[object, ...]]]) -> list[socket.socket]:
    """Binds a socket to each address that this host has, all at one port. Raises OSError."""
    sockets: list[socket.socket] = []
    port: object = 0
    missing: OSError | None = None
    try:
        for family, address in addresses:
            try:
                sockets.append(_bind_exclusively(family, (address[0], address[1] or port, *address[2:])))
            except OSError as e:
                # A name may resolve to IPv6 addresses too, on a host without IPv6.
                if e.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = e
                continue
            port = sockets[-1].getsockname()[1]
        if not sockets:
            raise missing or OSError(errno.EADDRNOTAVAIL, "the name resolves to no address")
    except OSError:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def _bind_exclusively(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Only during the bind, which may follow closed connections of an earlier server, but no listener.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError:
        bound.close()
        raise
    return bound


def metrics_address(listen: str | None, number: int) -> str | None:
    """Address for scrapes of the process with this number: consecutive ports, one each. Raises ConfigError."""
    if listen is None:
        return None
    host, _, port = listen.rpartition(":")
    if not int(port):
        return listen
    if int(port) + number > 65535:
        raise ConfigError(
            f"metrics_listen: {listen!r}: each process needs a port of its own, and 65535 is the last; choose a lower one"
        )
    return f"{host}:{int(port) + number}"
