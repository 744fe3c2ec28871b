"""A server as one caller sees it: its models, their usage and, for admins, its grants."""

from __future__ import annotations

import os
from typing import Any

from gradwire.client import arguments
from gradwire.client.card import ModelCard
from gradwire.client.estimator import RemoteEstimator
from gradwire.client.grants import Grants
from gradwire.client.queries import all_cards, card_named, usage_rows
from gradwire.client.settings import Renewal, Retry
from gradwire.client.transport.connection import Connection, connection_to
from gradwire.client.transport.credentials import ClientCertificate
from gradwire.client.usage import Usage


def connect(
    address: str,
    *,
    token: str | None = None,
    tls: str | os.PathLike[str] | bool | None = None,
    certificate: ClientCertificate | None = None,
    timeout_s: float | None = None,
    retry: Retry | None = None,
    renewal: Renewal | None = None,
    same_host: bool = True,
) -> Server:
    """Returns a `Server` for an address. It sends nothing before its first use.

    Args:
        address: ``host:port``; several IP addresses with their ports, separated by commas; ``dns:///NAME:PORT``, a name of
            several servers; ``unix:PATH``; or any other gRPC target. Streams to several servers are opened round robin, and
            calls fail over to the others when one ends.
        token: The caller's token; sent only over TLS or to this host.
        tls: A file with the certificates to trust (PEM), or True for the system's; None: no TLS.
        certificate: Two files (PEM), the caller's certificate and its key, for servers that authenticate callers by
            certificate; read at each new connection.
        timeout_s: Time limit of a call with all its attempts; None: no limit, provided that the server is alive.
        retry: How safe calls are retried.
        renewal: When open streams are replaced by new ones.
        same_host: Whether calls to an address of this host may use the server's Unix socket in place of gRPC, which is
            faster. They do if the server offers a socket and runs under the same user; not with several addresses.

    Returns:
        A `Server`; a context manager that closes it.

    Raises:
        InvalidCall: The token would be sent to another host without TLS, or is malformed; ``timeout_s`` is not a time;
            ``tls`` or ``certificate`` cannot be read; a certificate is given without ``tls``; ``address`` lists something
            other than IP addresses.
    """
    limit_s = arguments.timeout_s(timeout_s)
    return Server(connection_to(address, token, tls, certificate, limit_s, retry or Retry(), renewal or Renewal(), same_host))


class Server:
    """A server at an address, as one caller sees it. Made by `connect`.

    Threads may share it. It can be pickled and copied: a copy shares the connection; an unpickled one opens a new one.

    Attributes:
        connection: Carries the calls.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @property
    def address(self) -> str:
        """The address given to `connect`."""
        return self.connection.address

    @property
    def timeout_s(self) -> float | None:
        """Time limit of a call; None: no limit."""
        return self.connection.timeout_s

    @property
    def retry(self) -> Retry:
        """Retries of safe calls."""
        return self.connection.retry

    def models(self) -> list[ModelCard]:
        """The cards of all models that this caller may use."""
        return all_cards(self.connection)

    def card(self, name: str) -> ModelCard:
        """The card of one served name. Raises UnknownModel."""
        return card_named(self.connection, name)

    def estimator(self, name: str) -> RemoteEstimator:
        """The estimator of a served name. Raises UnknownModel."""
        return RemoteEstimator(self, self.card(name))

    def usage(self, name: str = "", principal: str = "", everybody: bool = False) -> list[Usage]:
        """Rows used of one served name, or of all.

        Args:
            name: The served name; empty: all.
            principal: Whose usage; empty: this caller's own. Other principals' usage is for admins only.
            everybody: Everybody's; only for admins.

        Returns:
            One `Usage` for each name and principal, with the rows used so far and the rows left.

        Raises:
            UnknownModel: The server does not serve that name to this caller.
            NotGranted: Only admins may ask that.
        """
        return usage_rows(self.connection, name, principal, everybody)

    @property
    def grants(self) -> Grants:
        """Administration of the server's grants, for admins."""
        return Grants(self.connection)

    def close(self) -> None:
        """Closes the connection. Its next use opens it again."""
        self.connection.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Server, (self.connection,)

    def __copy__(self) -> Server:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Server:
        return self

    def __repr__(self) -> str:
        return f"Server({self.address!r})"
