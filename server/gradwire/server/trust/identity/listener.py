"""Check of the listener: beyond loopback, a server requires TLS and identity."""

from __future__ import annotations

import ipaddress

from gradwire.server.config.server import ServerConfig
from gradwire.server.errors import ConfigError


def check_listener(config: ServerConfig) -> None:
    """Raises ConfigError for a listener beyond loopback without TLS or identity, unless ``insecure`` is set."""
    if config.insecure or not beyond_loopback(config.listen):
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
            f"listen: {config.listen!r} is not loopback and needs {' and '.join(missing)}; without, anybody could call, or read "
            "the calls of others. Add it (`gradwire tls init` and `gradwire token new` make the files), "
            "listen on 127.0.0.1, or set insecure: true if the network can be trusted"
        )


def beyond_loopback(listen: str) -> bool:
    """True if other hosts can reach the address."""
    if listen.startswith("unix:"):
        return False
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
