"""The server's certificate, which may be replaced while it serves, and whom a client's certificate speaks for.

gRPC asks for the server's certificate at every handshake, so that a new one is shown from then on; connections that are open
stay. A client's certificate is checked by TLS when the connection begins, and for its time at every call.
"""

from __future__ import annotations

from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from gradwire.server.trust.identity.files import Watched
from gradwire.server.values.principals import check_principal


class Certified(NamedTuple):
    """Whom a certificate speaks for, and until when (Unix time)."""

    name: str
    until_s: float


class ServerCertificate:
    """The server's certificate and key, and the certificates that sign those of clients.

    Args:
        certificate: PEM, the server's own first.
        key: PEM, not encrypted.
        client_ca: PEM; None: clients show no certificate.

    Raises:
        ValueError: They make no sense, or do not belong together.
        OSError: One of them cannot be read.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._clients_too = client_ca is not None
        self._watched = Watched([certificate, key, *([client_ca] if client_ca else [])], _configuration)
        self._shown = self._watched.value

    def credentials(self) -> grpc.ServerCredentials:
        """What a secure port begins with, and asks again at every handshake."""
        return grpc.dynamic_ssl_server_credentials(self._shown, self._changed, require_client_authentication=self._clients_too)

    def poll(self) -> bool:
        """Reads the files if they have changed."""
        return self._watched.poll()

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC shall show from now on; None: what it shows already. Called by gRPC's threads."""
        latest = self._watched.value
        if latest is self._shown:
            return None
        self._shown = latest
        return latest


@lru_cache(1024)
def certified(pem: bytes) -> Certified:
    """Whom a client's certificate speaks for: its common name; where it has none, its only e-mail address or host name.

    Raises:
        ValueError: It names nobody, or not one principal.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not names:
        try:
            others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            others = x509.SubjectAlternativeName([])
        names = others.get_values_for_type(x509.RFC822Name) or others.get_values_for_type(x509.DNSName)
    if len(names) != 1:
        raise ValueError(f"the certificate names {len(names)} principals; expected one common name")
    return Certified(check_principal(names[0]), certificate.not_valid_after_utc.timestamp())


def _configuration(certificate: bytes, key: bytes, client_ca: bytes | None = None) -> grpc.ServerCertificateConfiguration:
    """What gRPC takes, once it is clear that it will do: gRPC itself would say nothing, and fail every handshake."""
    try:
        chain = x509.load_pem_x509_certificates(certificate)
    except ValueError as e:
        raise ValueError(f"certificate: holds no certificate (PEM): {e}") from None
    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError):
        raise ValueError("key: holds no private key (PEM) that can be read without a password") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != chain[0].public_key().public_bytes(*form):
        raise ValueError("certificate and key do not belong together; replace both")
    if chain[0].not_valid_after_utc <= datetime.now(timezone.utc):
        raise ValueError(f"certificate: expired on {chain[0].not_valid_after_utc:%Y-%m-%d}")
    if client_ca is not None:
        try:
            x509.load_pem_x509_certificates(client_ca)
        except ValueError as e:
            raise ValueError(f"client_ca: holds no certificate (PEM): {e}") from None
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=client_ca)
