"""Schema of a server's configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from gradwire.server.config.device_names import Devices
from gradwire.server.config.identity import IdentityConfig, Tls
from gradwire.server.config.limits import Limits
from gradwire.server.config.models import RayConfig, ServedModel


class TracingConfig(BaseModel):
    """Export of call traces over OTLP and HTTP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str
    """URL of a collector; ``/v1/traces`` is added if it has no path."""
    ratio: float = Field(default=0.01, ge=0, le=1)
    """Fraction of calls that is traced. A caller's trace context overrides it."""

    @field_validator("endpoint")
    @classmethod
    def _url(cls, endpoint: str) -> str:
        parsed = urlsplit(endpoint)
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            raise ValueError(f"{endpoint!r} is not an http or https URL; expected, for example, http://127.0.0.1:4318")
        return endpoint if parsed.path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"


class ServerConfig(BaseModel):
    """Keys of a server's configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = "127.0.0.1:50051"
    devices: Devices | None = None
    """Devices with a process each, all at ``listen``; None: one process, with each model on its own ``device``."""
    insecure: bool = False
    """Allows a listener beyond loopback without both TLS and identity."""
    tls: Tls | None = None
    identity: IdentityConfig | None = None
    grants: Path | None = None
    """Grants file; reloaded when it changes. Without it and without identity, every caller gets ``access``."""
    store: str | None = None
    """SQLAlchemy URL of the database of budgets, grants and the ledger. In a configuration file, a SQLite path is relative
    to that file; the default is gradwire.db in ``state_dir``."""
    lease_rows: int = Field(default=100, ge=1)
    """Rows of a budget that the server leases from the store at a time; 1: every block is charged in the store."""
    keep_calls_days: float | None = Field(default=None, gt=0, le=36_500)
    """Days that the ledger keeps a call; None: no limit. Usage and budgets keep counting older calls."""
    health_listen: str | None = None
    """Second listener, without TLS, that serves only grpc.health.v1."""
    metrics_listen: str | None = None
    """Listener for Prometheus, over HTTP without TLS."""
    metrics_principals: bool | None = None
    """Adds principals and their budgets to metrics; None: only on loopback."""
    tracing: TracingConfig | None = None
    models: list[ServedModel] = Field(min_length=1)
    engine: Literal["embedded", "ray"] = "embedded"
    """Place of the models: this process, or replicas on a Ray cluster."""
    ray: RayConfig = RayConfig()
    limits: Limits = Limits()
    state_dir: Path = Path(".gradwire")
    """Folder of versions; in a configuration file, relative to that file."""
    spool_dir: Path | None = None
    """Folder for training data beyond memory; by default the system's temporary folder."""
    drain_timeout_s: float = Field(default=30.0, ge=0)
    """Time that running calls have to finish after SIGTERM."""
    watchdog_s: float | None = Field(default=None, gt=0)
    """Computing time of one batch after which the model counts as hung."""
    watchdog_exits: bool = True
    """Ends a hung process with exit code 70, so that it is restarted."""
    log_format: Literal["text", "json"] = "text"

    @field_validator("listen", "health_listen", "metrics_listen")
    @classmethod
    def _address(cls, listen: str | None, info: ValidationInfo) -> str | None:
        if listen is None or (listen.startswith("unix:") and info.field_name != "metrics_listen"):
            return listen
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{listen!r} is not host:port; expected, for example, 127.0.0.1:50051, or port 0 for any free port")
        return listen

    @model_validator(mode="after")
    def _one_way_to_several(self) -> ServerConfig:
        if self.devices is not None and self.engine != "embedded":
            raise ValueError(f"devices and engine {self.engine!r} exclude each other: each starts its own processes; leave one out")
        return self

    @model_validator(mode="after")
    def _encrypted(self) -> ServerConfig:
        if self.identity is not None and self.identity.client_ca is not None and self.tls is None:
            raise ValueError("identity.client_ca needs tls, which carries the clients' certificates; set it too")
        return self
