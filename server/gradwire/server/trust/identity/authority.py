"""Certificate authority in a folder, for development and for networks without one.

Clients and servers both trust its one certificate. Servers' certificates cannot be used by clients, nor clients' by
servers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gradwire.server.trust.identity.tokens import write_privately
from gradwire.server.values.principals import check_principal

LOCAL = ("localhost", "127.0.0.1", "::1")
"""Names of every server's certificate."""

_CA_DAYS = 3650
_BEFORE = timedelta(minutes=5)
"""Start of validity before the present, because clocks differ."""


class Authority:
    """The authority in a folder.

    Args:
        folder: Folder that `make` filled: ca.pem and ca-key.pem, server.pem and server-key.pem, and for each client
            client-NAME.pem and client-NAME-key.pem. Only the owner can read the keys.

    Raises:
        ValueError: The folder has no authority.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = load_pem_private_key((folder / "ca-key.pem").read_bytes(), None)
        except FileNotFoundError as e:
            raise ValueError(f"{e.filename}: the file does not exist; `gradwire tls init {folder}` makes an authority") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{folder / 'ca-key.pem'}: not a key of `gradwire tls init`; expected an EC private key")
        self._key = key

    @classmethod
    def make(cls, folder: Path) -> Authority:
        """Creates an authority, and replaces that of the folder if it has one."""
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gradwire development CA")])
        usage = _usage(signs_certificates=True)
        certificate = (
            _begun(name, name, key.public_key(), _CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(key, SHA256())
        )
        _write(folder, "ca", certificate, key)
        return cls(folder)

    def server(self, hosts: Sequence[str], days: int) -> None:
        """A certificate for a server that is reached under these names and addresses, and on its own host. Raises ValueError."""
        alternatives = [_alternative(host) for host in dict.fromkeys((*hosts, *LOCAL))]
        common = next((host for host in hosts if len(host) <= 64), LOCAL[0])
        self._issue("server", common, alternatives, ExtendedKeyUsageOID.SERVER_AUTH, days)

    def client(self, name: str, days: int) -> None:
        """A certificate that speaks for a principal. Raises ValueError."""
        self._issue(f"client-{check_principal(name)}", name, [], ExtendedKeyUsageOID.CLIENT_AUTH, days)

    def _issue(
        self, stem: str, common: str, alternatives: list[x509.GeneralName], purpose: x509.ObjectIdentifier, days: int
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
        usage = _usage(signs_certificates=False)
        builder = (
            _begun(name, self._certificate.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        _write(self.folder, stem, builder.sign(self._key, SHA256()), key)


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not host or len(host) > 253 or not all(c.isalnum() or c in "-.*" for c in host) or not host.isascii():
        raise ValueError(f"{host[:80]!r} is neither a host name nor an IP address; expected one without a port")
    return x509.DNSName(host)


def _write(folder: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    write_privately(folder / f"{stem}-key.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path = folder / f"{stem}.pem"
    write_privately(path, certificate.public_bytes(Encoding.PEM))
    path.chmod(0o644)
