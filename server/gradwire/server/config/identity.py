"""Configuration of TLS and of the identity of callers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from gradwire.server.values.principals import check_principal


class Tls(BaseModel):
    """PEM files of the server's certificate and private key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    certificate: Path
    key: Path


class IdentityConfig(BaseModel):
    """Authentication of callers. With both keys, a certificate is needed to connect, and a token may name another principal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: Path | None = None
    """File that ``gradwire token`` writes; reloaded when it changes."""
    client_ca: Path | None = None
    """PEM file of authorities: clients need a certificate signed by one of them; its common name is the principal."""
    admins: list[Annotated[str, AfterValidator(check_principal)]] = []
    """Principals who may grant and revoke access, and see the usage of all principals."""

    @model_validator(mode="after")
    def _has_source(self) -> IdentityConfig:
        if self.tokens is None and self.client_ca is None:
            raise ValueError("identity needs tokens, client_ca or both; without them no caller can be identified")
        return self
