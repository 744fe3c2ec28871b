"""gRPC channels for addresses: to one server, or to several servers round robin.

A channel reconnects when a server closes the connection, and looks names up again then. Among several addresses, it skips
those that do not answer until they do.
"""

from __future__ import annotations

import ipaddress

import grpc

from gradwire.client.errors import InvalidCall
from gradwire.client.transport.credentials import AnyPath, ClientCertificate, channel_credentials

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A restarted server is found again within a call's retries.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
    # Despite its name, the time limit of an attempt to connect: a busy server far away needs seconds for TCP and TLS.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # Detects a lost machine in the middle of a call.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Channels do not share connections: closing or forking one leaves the others alone.
    ("grpc.use_local_subchannel_pool", 1),
    # Streams go to the servers behind one name round robin.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    # A name is looked up again when a connection ends. gRPC's own interval of 30 s is longer than a call is retried.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
)


def target(address: str) -> str:
    """Returns gRPC's target for an address; adds the scheme to a bare list of IP addresses. Raises InvalidCall."""
    first = address.partition(",")[0]
    if "," not in address or "/" in first or first.startswith(("ipv4:", "ipv6:", "unix:", "unix-abstract:", "dns:")):
        return address
    versions = {_version(part) for part in address.split(",")}
    if versions not in ({4}, {6}):
        raise InvalidCall(
            f"address is {address!r}; expected HOST:PORT, or several IP addresses of one kind, each with its port, for example "
            "10.0.0.1:50051,10.0.0.2:50051; use dns:///NAME:PORT for a name of several servers"
        )
    return f"ipv{versions.pop()}:{address}"


def local(address: str) -> bool:
    """True if an address, or every address of a list, is on this host."""
    if address.startswith("unix:"):
        return True
    parts = address.removeprefix("ipv4:").removeprefix("ipv6:").split(",")
    return all(_loopback(part.rpartition(":")[0].strip("[]")) for part in parts)


def several(address: str) -> bool:
    """True if an address names more than one server."""
    return "," in address


def open_channel(address: str, tls: AnyPath | bool | None, certificate: ClientCertificate | None) -> grpc.Channel:
    """Opens a channel, which connects at its first use. Reads the TLS files. Raises InvalidCall."""
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
