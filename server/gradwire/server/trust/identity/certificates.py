"""The server's certificate, reloaded while it serves, and the principals of clients' certificates.

gRPC requests the server's certificate at every handshake, so new connections get a new one; open connections
stay. TLS verifies a client's certificate when the connection begins; its expiry is checked at every call.
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
    """Principal of a certificate, and its expiry (Unix time)."""

    name: str
    until_s: float


class ServerCertificate:
    """The server's certificate and key, and the authorities of clients' certificates.

    Args:
        certificate: PEM file, with the server's own certificate first.
        key: PEM file, not encrypted.
        client_ca: PEM file; None: clients need no certificate.

    Raises:
        ValueError: The files are invalid, or certificate and key do not match.
        OSError: A file cannot be read.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        self._clients_too = client_ca is not None
        self._watched = Watched([certificate, key, *([client_ca] if client_ca else [])], _configuration)
        self._shown = self._watched.value

    def credentials(self) -> grpc.ServerCredentials:
        """Returns the credentials of a secure port, which gRPC updates at every handshake."""
        return grpc.dynamic_ssl_server_credentials(self._shown, self._changed, require_client_authentication=self._clients_too)

    def poll(self) -> bool:
        """Reloads the files if they have changed; True if there is a new certificate."""
        return self._watched.poll()

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns a new configuration for gRPC, or None if unchanged. Called on gRPC's threads."""
        latest = self._watched.value
        if latest is self._shown:
            return None
        self._shown = latest
        return latest


@lru_cache(1024)
def certified(pem: bytes) -> Certified:
    """Returns the principal of a client's certificate: its common name, or else its only e-mail address or host name.

    Raises:
        ValueError: The certificate does not name exactly one principal.
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
    """Returns a checked configuration for gRPC, which itself would accept an invalid one and fail every handshake."""
    try:
        chain = x509.load_pem_x509_certificates(certificate)
    except ValueError as e:
        raise ValueError(f"certificate: contains no PEM certificate: {e}") from None
    try:
        private = load_pem_private_key(key, None)
    except (ValueError, TypeError):
        raise ValueError("key: needs a PEM private key without a password") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != chain[0].public_key().public_bytes(*form):
        raise ValueError("certificate and key do not match; replace both")
    if chain[0].not_valid_after_utc <= datetime.now(timezone.utc):
        raise ValueError(f"certificate: expired on {chain[0].not_valid_after_utc:%Y-%m-%d}")
    if client_ca is not None:
        try:
            x509.load_pem_x509_certificates(client_ca)
        except ValueError as e:
            raise ValueError(f"client_ca: contains no PEM certificate: {e}") from None
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=client_ca)
