"""Authentication of callers by token or certificate; others are rejected.

Every call is authenticated, also on a stream that is open already: a revoked token or an expired certificate fails the
next call. The error for an invalid token does not reveal whether it was ever valid; the log does, and never contains the
token.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from gradwire.server.config.identity import IdentityConfig
from gradwire.server.errors import ConfigError, Unauthenticated
from gradwire.server.telemetry.limited_log import LimitedLog
from gradwire.server.trust.identity.certificates import Certified, certified
from gradwire.server.trust.identity.files import Polled, Watched
from gradwire.server.trust.identity.tokens import Token, by_digest, digest
from gradwire.server.values.principals import ANONYMOUS

log = logging.getLogger("gradwire.server")

TICKET_KEY = "gradwire-ticket"
"""Metadata key of the ticket that `Identity.ticket` returned, sent over this host's socket."""

_SCHEME = "bearer "

_NO_TOKEN = (
    "this server requires a token: connect(address, token=...), or GRADWIRE_TOKEN in the environment for commands; "
    "its operator makes one with `gradwire token new NAME`"
)
_BAD_TOKEN = "the token is unknown, expired or revoked; the server's operator makes a new one with `gradwire token new NAME`"
_BAD_CERTIFICATE = "the client's certificate names no valid principal, or has expired; use another one"


class Identity:
    """Authenticates callers.

    Args:
        config: Configuration; None: every caller is anonymous.

    Attributes:
        admins: Principals that may administer grants.
        refused_calls: Number of unauthenticated calls and streams.

    Raises:
        ConfigError: A file cannot be read or is invalid.
    """

    def __init__(self, config: IdentityConfig | None = None) -> None:
        self.anonymous = config is None
        self.certificates = config is not None and config.client_ca is not None
        self.admins = frozenset(config.admins if config is not None else ())
        self._gone: dict[str, str] = {}
        self._tokens: Watched[Mapping[str, Token]] | None = None
        # Tickets are valid for this process only; the next one has another socket too.
        self._ticket_key = secrets.token_bytes(32)
        self._log = LimitedLog(logging.WARNING, "a caller was refused", "more callers were refused")
        self.refused_calls = 0
        if config is not None and config.tokens is not None:
            try:
                self._tokens = Watched([config.tokens], self._read)
            except FileNotFoundError:
                text = f"the file does not exist; make it with: gradwire token new NAME --file {config.tokens}"
                raise ConfigError(f"identity.tokens: {config.tokens}: {text}") from None
            except (ValueError, OSError) as e:
                raise ConfigError(f"identity.tokens: {config.tokens}: {e}") from e

    @property
    def watched(self) -> list[Polled]:
        """Files for `files.watch`."""
        return [] if self._tokens is None else [self._tokens]

    def caller(self, context: Any) -> Caller:
        """Returns the caller of a call or stream, over gRPC or this host's socket."""
        return Caller(self, context)

    def principal(self, context: Any) -> str:
        """Returns the principal of a call. Raises Unauthenticated."""
        return self.caller(context).principal()

    def ticket(self, context: Any) -> str:
        """Returns a ticket that replaces the caller's certificate on this host's socket, which has no TLS.

        Empty for servers without client certificates. Raises Unauthenticated.
        """
        if not self.certificates:
            return ""
        shown = self.caller(context)
        shown.principal()
        assert shown.certified is not None
        signed = f"{shown.certified.until_s}:{shown.certified.name}"
        return f"{signed}:{self._signature(signed)}"

    def of_ticket(self, ticket: str) -> Certified:
        """Returns the principal and expiry of a ticket. Raises ValueError."""
        signed, _, signature = ticket.rpartition(":")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            raise ValueError("a ticket of another server, or none")
        until_s, _, name = signed.partition(":")
        return Certified(name, float(until_s))

    def of_token(self, key: str) -> str:
        """Returns the principal of a token by its digest, if it is valid now. Raises ValueError."""
        assert self._tokens is not None
        token = self._tokens.value.get(key)
        if token is None:
            name = self._gone.get(key)
            raise ValueError("unknown token" if name is None else f"a token of {name} that was revoked")
        if token.expired(datetime.now(timezone.utc)):
            raise ValueError(f"a token of {token.name} that expired at {token.expires}")
        return token.name

    @property
    def asks_for_tokens(self) -> bool:
        """True if the server accepts tokens."""
        return self._tokens is not None

    def refused(self, peer: str, reason: str, text: str) -> Unauthenticated:
        """Counts and logs a refused call, and returns the error to raise.

        Args:
            peer: Address of the caller.
            reason: Reason for the log.
            text: Text of the error, which the caller receives.
        """
        self.refused_calls += 1
        self._log.log(peer=peer, reason=reason)
        return Unauthenticated(text)

    def _read(self, content: bytes) -> Mapping[str, Token]:
        """Parses the tokens as `by_digest` does, and remembers revoked ones for the log."""
        latest = by_digest(content)
        before = {} if self._tokens is None else self._tokens.value
        self._gone |= {key: before[key].name for key in before.keys() - latest.keys()}
        return latest

    def _signature(self, signed: str) -> str:
        return hmac.new(self._ticket_key, signed.encode(), "sha256").hexdigest()


class Caller:
    """A caller, whose credentials are parsed once. Created by `Identity.caller`.

    Attributes:
        certified: Principal and expiry of the certificate or its ticket; None without one.
    """

    __slots__ = ("_identity", "_key", "_peer", "_wrong", "certified")

    def __init__(self, identity: Identity, context: Any) -> None:
        self._identity = identity
        self._peer: str = context.peer()
        self._key: str | None = None
        self._wrong: tuple[str, str] | None = None
        self.certified: Certified | None = None
        if identity.anonymous:
            return
        metadata = [(key, value) for key, value in context.invocation_metadata() or () if isinstance(value, str)]
        if identity.certificates:
            self._take_certificate(context, metadata)
        if identity.asks_for_tokens:
            self._take_token([value for key, value in metadata if key == "authorization"])

    def principal(self) -> str:
        """Returns the principal, if the credentials are valid now. Raises Unauthenticated."""
        identity = self._identity
        if identity.anonymous:
            return ANONYMOUS
        if self._wrong is not None:
            raise identity.refused(self._peer, *self._wrong)
        if self.certified is not None and self.certified.until_s <= time.time():
            raise identity.refused(self._peer, f"an expired certificate of {self.certified.name}", _BAD_CERTIFICATE)
        if self._key is None:
            # A server with neither tokens nor client_ca does not start.
            assert self.certified is not None
            return self.certified.name
        try:
            return identity.of_token(self._key)
        except ValueError as e:
            raise identity.refused(self._peer, str(e), _BAD_TOKEN) from None

    def _take_certificate(self, context: Any, metadata: list[tuple[str, str]]) -> None:
        authenticated = getattr(context, "auth_context", None)
        try:
            if authenticated is not None:
                shown = authenticated().get("x509_pem_cert")
                if not shown:
                    raise ValueError("no certificate")
                self.certified = certified(shown[0])
            else:
                # The socket of this host. Tickets are not accepted over gRPC.
                self.certified = self._identity.of_ticket(next((value for key, value in metadata if key == TICKET_KEY), ""))
        except ValueError as e:
            self._wrong = str(e), _BAD_CERTIFICATE

    def _take_token(self, values: list[str]) -> None:
        if not values:
            if not self._identity.certificates:
                self._wrong = "no token", _NO_TOKEN
        elif len(values) > 1 or values[0][: len(_SCHEME)].lower() != _SCHEME:
            self._wrong = "an authorization that is not one bearer token", _NO_TOKEN
        else:
            self._key = digest(values[0][len(_SCHEME) :])
