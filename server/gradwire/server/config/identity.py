"""Configuration of TLS and of the identity of callers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from gradwire.server.values.principals import check_principal


class Tls(BaseModel):
    """The server's certificate and its private key, PEM files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    certificate: Path
    key: Path


class IdentityConfig(BaseModel):
    """How callers are told apart. With both, a certificate is needed to connect, and a token may speak for somebody else."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: Path | None = None
    """The file that ``gradwire token`` writes; read again when it changes."""
    client_ca: Path | None = None
    """PEM: clients show a certificate that is signed by one of these; its common name says who calls."""
    admins: list[Annotated[str, AfterValidator(check_principal)]] = []
    """Principals who may give and take access, and see what everybody has used."""

    @model_validator(mode="after")
    def _something(self) -> IdentityConfig:
        if self.tokens is None and self.client_ca is None:
            raise ValueError("expected tokens, client_ca or both: nobody could be known without")
        return self
