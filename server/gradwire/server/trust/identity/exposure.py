"""Which listeners may be opened: beyond loopback only callers who are known are served, and only over TLS."""

from __future__ import annotations

import ipaddress

from gradwire.server.config.server import ServerConfig
from gradwire.server.errors import ConfigError


def check_exposure(config: ServerConfig) -> None:
    """Raises ConfigError for a listener that strangers can reach, and that does not ask who they are in secret."""
    if config.insecure or not exposed(config.listen):
        return
    missing = [
        text
        for text, lacks in (
            ("tls: {certificate: FILE, key: FILE}", config.tls is None),
            ("identity: {tokens: FILE} or {client_ca: FILE}", config.identity is None),
        )
        if lacks
    ]
    if missing:
        raise ConfigError(
            f"listen: {config.listen!r} is not loopback, and there is no {' and no '.join(missing)}; every caller who reaches it "
            "would be served, or overheard. Add what is missing (`gradwire tls init` and `gradwire token new` make the files), "
            "listen on 127.0.0.1, or write insecure: true if the network may be trusted"
        )


def exposed(listen: str) -> bool:
    """Whether other hosts can reach an address."""
    if listen.startswith("unix:"):
        return False
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
