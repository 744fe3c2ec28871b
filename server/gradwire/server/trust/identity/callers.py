"""Who calls. A caller is known by a token, by a certificate, or is nobody that is served.

A caller is asked for at every call, also on a stream that has been open for long: a token that was revoked, or a certificate
whose time is over, ends the next call. What a stranger is told does not say whether a token has ever been good; the log does,
and never holds the token.
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
from gradwire.server.trust.identity.certificates import Certified, certified
from gradwire.server.trust.identity.files import Polled, Watched
from gradwire.server.trust.identity.tokens import Token, by_digest, digest
from gradwire.server.values.principals import ANONYMOUS

log = logging.getLogger("gradwire.server")

TICKET_KEY = "gradwire-ticket"
"""The metadata in which a caller on this host shows what `Identity.ticket` gave."""

_SCHEME = "bearer "
_LOGGED_PER_S = 20
"""Refusals that are logged; of more only the number, so that a flood of them does not fill a disk."""

_NO_TOKEN = (
    "who calls? This server wants a token: connect(address, token=...), or the environment's GRADWIRE_TOKEN for commands; "
    "its operator makes one with `gradwire token new NAME`"
)
_BAD_TOKEN = "the token is not valid, or not any more; the server's operator makes a new one with `gradwire token new NAME`"
_BAD_CERTIFICATE = "the client's certificate names nobody that can be served, or its time is over; use another one"


class Identity:
    """How callers are told apart.

    Args:
        config: None: everybody is the same anonymous caller.

    Attributes:
        admins: Principals that may do more.
        refused_calls: Calls and streams of callers who were not known.

    Raises:
        ConfigError: A file cannot be read or makes no sense.
    """

    def __init__(self, config: IdentityConfig | None = None) -> None:
        self.anonymous = config is None
        self.certificates = config is not None and config.client_ca is not None
        self.admins = frozenset(config.admins if config is not None else ())
        self._gone: dict[str, str] = {}
        self._tokens: Watched[Mapping[str, Token]] | None = None
        # Tickets are good for this process; after it there is another socket too.
        self._ticket_key = secrets.token_bytes(32)
        self._refusals = _Refusals()
        self.refused_calls = 0
        if config is not None and config.tokens is not None:
            try:
                self._tokens = Watched([config.tokens], self._read)
            except FileNotFoundError:
                text = f"there is no such file; make it with: gradwire token new NAME --file {config.tokens}"
                raise ConfigError(f"identity.tokens: {config.tokens}: {text}") from None
            except (ValueError, OSError) as e:
                raise ConfigError(f"identity.tokens: {config.tokens}: {e}") from e

    @property
    def watched(self) -> list[Polled]:
        """What `files.watch` shall look at."""
        return [] if self._tokens is None else [self._tokens]

    def caller(self, context: Any) -> Caller:
        """Who is at the other end of a call or a stream: of gRPC's, or of the socket for callers on this host."""
        return Caller(self, context)

    def principal(self, context: Any) -> str:
        """The name of who makes a call. Raises Unauthenticated."""
        return self.caller(context).principal()

    def ticket(self, context: Any) -> str:
        """What a caller shows on the socket of this host, where there is no TLS, in place of the certificate it has shown here.

        Empty where no certificates are asked for. Raises Unauthenticated.
        """
        if not self.certificates:
            return ""
        shown = self.caller(context)
        shown.principal()
        assert shown.certified is not None
        signed = f"{shown.certified.until_s}:{shown.certified.name}"
        return f"{signed}:{self._signature(signed)}"

    def of_ticket(self, ticket: str) -> Certified:
        """Whom a ticket speaks for. Raises ValueError."""
        signed, _, signature = ticket.rpartition(":")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            raise ValueError("no ticket of this server's")
        until_s, _, name = signed.partition(":")
        return Certified(name, float(until_s))

    def of_token(self, key: str) -> str:
        """Whom a token speaks for now, by its digest. Raises ValueError."""
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
        """Whether tokens mean anything here."""
        return self._tokens is not None

    def refused(self, peer: str, reason: str, told: str) -> Unauthenticated:
        """Logs why, and returns what to raise."""
        self.refused_calls += 1
        self._refusals.log(peer, reason)
        return Unauthenticated(told)

    def _read(self, content: bytes) -> Mapping[str, Token]:
        """As `by_digest`; what is no longer there is remembered, for the log."""
        latest = by_digest(content)
        before = {} if self._tokens is None else self._tokens.value
        self._gone |= {key: before[key].name for key in before.keys() - latest.keys()}
        return latest

    def _signature(self, signed: str) -> str:
        return hmac.new(self._ticket_key, signed.encode(), "sha256").hexdigest()


class Caller:
    """Who is at the other end. Made by `Identity.caller`; what can be worked out once is, here.

    Attributes:
        certified: What the certificate or its ticket says; None without one.
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
        """The caller's name, if it is still good. Raises Unauthenticated."""
        identity = self._identity
        if identity.anonymous:
            return ANONYMOUS
        if self._wrong is not None:
            raise identity.refused(self._peer, *self._wrong)
        if self.certified is not None and self.certified.until_s <= time.time():
            raise identity.refused(self._peer, f"a certificate of {self.certified.name} whose time is over", _BAD_CERTIFICATE)
        if self._key is None:
            # A server that asks for neither does not start.
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
                # The socket of this host. Over gRPC a ticket counts for nothing.
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


class _Refusals:
    """Logs them, up to so many a second."""

    def __init__(self) -> None:
        self._second = 0
        self._count = 0

    def log(self, peer: str, reason: str) -> None:
        second = int(time.monotonic())
        if second != self._second:
            if self._count > _LOGGED_PER_S:
                log.warning("more callers were refused", extra={"number": self._count - _LOGGED_PER_S})
            self._second, self._count = second, 0
        self._count += 1
        if self._count <= _LOGGED_PER_S:
            log.warning("a caller was refused", extra={"peer": peer, "reason": reason})
