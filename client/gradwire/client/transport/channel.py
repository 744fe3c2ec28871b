"""From an address to a gRPC channel: to one server, or to several that take turns.

A channel follows its servers: a connection that a server ends is made anew, names are looked up again then, and of several
addresses those that do not answer are left out until they do.
"""

from __future__ import annotations

import ipaddress

import grpc

from gradwire.client.errors import InvalidCall
from gradwire.client.transport.credentials import AnyPath, ClientCertificate, channel_credentials

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that is started again is found again within a call's retries.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
    # Not what its name says, but how long an attempt to connect may take: a busy server far away needs seconds for TCP and TLS.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # A server whose machine is gone is noticed in the middle of a call.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Connections are not shared between channels: one that was closed or forked takes nobody else with it.
    ("grpc.use_local_subchannel_pool", 1),
    # Servers behind one name take turns, stream by stream.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    # A name is looked up again when a connection ends. gRPC's own pause of 30 s between two looks is longer than a call is tried.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
)


def target(address: str) -> str:
    """What gRPC calls an address: a bare list of IP addresses gets the scheme that such lists have. Raises InvalidCall."""
    first = address.partition(",")[0]
    if "," not in address or "/" in first or first.startswith(("ipv4:", "ipv6:", "unix:", "unix-abstract:", "dns:")):
        return address
    versions = {_version(part) for part in address.split(",")}
    if versions not in ({4}, {6}):
        raise InvalidCall(
            f"address is {address!r}; expected HOST:PORT, or several IP addresses of one kind, each with its port, for example "
            "10.0.0.1:50051,10.0.0.2:50051; a name that leads to several servers is dns:///NAME:PORT"
        )
    return f"ipv{versions.pop()}:{address}"


def local(address: str) -> bool:
    """Whether an address is this host's alone, with every part of a list."""
    if address.startswith("unix:"):
        return True
    parts = address.removeprefix("ipv4:").removeprefix("ipv6:").split(",")
    return all(_loopback(part.rpartition(":")[0].strip("[]")) for part in parts)


def several(address: str) -> bool:
    """Whether an address names more than one server."""
    return "," in address


def open_channel(address: str, tls: AnyPath | bool | None, certificate: ClientCertificate | None) -> grpc.Channel:
    """A channel; it connects when it is first used. Reads the files. Raises InvalidCall."""
    credentials = channel_credentials(tls, certificate)
    if credentials is None:
        return grpc.insecure_channel(target(address), _OPTIONS)
    return grpc.secure_channel(target(address), credentials, _OPTIONS)


def _version(part: str) -> int | None:
    host, _, port = part.rpartition(":")
    try:
        return ipaddress.ip_address(host.strip("[]")).version if port.isdigit() else None
    except ValueError:
        return None


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
