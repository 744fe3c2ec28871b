"""Credentials of a caller: its token, its certificate, and the certificate authorities that it trusts.

Errors never contain a token.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from gradwire.client.errors import InvalidCall

AnyPath: TypeAlias = str | os.PathLike[str]
ClientCertificate: TypeAlias = tuple[AnyPath, AnyPath]
"""The certificate's file and its key's."""


def check_token(token: str | None) -> None:
    """Checks the form of a token. Raises InvalidCall; gRPC's own error would show the token."""
    if token is not None and (not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token)):
        given = f"{len(token)} characters" if isinstance(token, str) else type(token).__name__
        raise InvalidCall(f"token is malformed ({given}); expected ASCII letters, digits and signs without spaces")


def token_in(path: AnyPath) -> str:
    """Reads a token from a file. Raises InvalidCall."""
    text = _content("the token file", path, "a file that contains a token").strip()
    if not re.fullmatch(rb"[!-~]+", text):
        raise InvalidCall(
            f"the token file {path} contains {len(text)} bytes that are not a token; expected one token and nothing else"
        )
    return text.decode("ascii")


def caller(
    token: str | None, token_file: AnyPath | None, tls: str | None, certificate: AnyPath | None, key: AnyPath | None
) -> dict[str, Any]:
    """Turns a command's options into arguments of `connect`; a token file overrides a token. Raises InvalidCall."""
    if (certificate is None) != (key is None):
        raise InvalidCall(f"{'--key' if key is None else '--certificate'} is missing; --certificate and --key need each other")
    return {
        "token": token if token_file is None else token_in(token_file),
        "tls": True if tls == "system" else tls,
        "certificate": None if certificate is None else (certificate, key),
    }


def channel_credentials(tls: AnyPath | bool | None, certificate: ClientCertificate | None) -> grpc.ChannelCredentials | None:
    """Returns the credentials of a channel; None without TLS. Reads the files. Raises InvalidCall."""
    if tls is None or tls is False:
        if certificate is not None:
            raise InvalidCall("certificate needs tls; pass tls=, a file with certificates to trust, or True")
        return None
    roots = None if tls is True else _content("tls", tls, "a file with certificates to trust (PEM), or True")
    if certificate is None:
        return grpc.ssl_channel_credentials(roots)
    if not isinstance(certificate, (tuple, list)) or len(certificate) != 2:
        raise InvalidCall("certificate must be two files (PEM): certificate=(certificate, key)")
    chain, key = (_content("certificate", path, "two files (PEM), a certificate and its key") for path in certificate)
    if b"CERTIFICATE-----" not in chain or b"PRIVATE KEY-----" not in key:
        raise InvalidCall(
            f"certificate is {certificate[0]} and {certificate[1]}; expected a certificate and its key (PEM), in this order"
        )
    return grpc.ssl_channel_credentials(roots, key, chain)


def _content(name: str, path: AnyPath, expected: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, TypeError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else e
        raise InvalidCall(f"{name} is {path}: {why}; expected {expected}") from None
