"""Configuration of a server, as `gradwire serve` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from gradwire.server.config.devices import Devices
from gradwire.server.config.identity import IdentityConfig, Tls
from gradwire.server.config.limits import Limits
from gradwire.server.config.models import RayConfig, ServedModel


class TracingConfig(BaseModel):
    """Where traces of calls go, over OTLP and HTTP."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str
    """A collector's URL; without a path, its ``/v1/traces``."""
    ratio: float = Field(default=0.01, ge=0, le=1)
    """Part of the calls that are traced, of those whose callers do not say. A caller's trace context decides otherwise."""

    @field_validator("endpoint")
    @classmethod
    def _url(cls, endpoint: str) -> str:
        parsed = urlsplit(endpoint)
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            raise ValueError(f"{endpoint!r} is not an http or https URL; for example http://127.0.0.1:4318")
        return endpoint if parsed.path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"


class ServerConfig(BaseModel):
    """What ``gradwire serve`` reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = "127.0.0.1:50051"
    devices: Devices | None = None
    """A process for each, all at ``listen``; None: one process, with each model on its own ``device``."""
    insecure: bool = False
    """Allows a listener that is not loopback although calls are not both encrypted and authenticated."""
    tls: Tls | None = None
    identity: IdentityConfig | None = None
    grants: Path | None = None
    """The file that says who may do what; read again when it changes. Without it and without identity, all get ``access``."""
    store: str | None = None
    """SQLAlchemy's URL of the database that keeps budgets, grants and the ledger. In a file's configuration, a SQLite file
    is relative to the file, and gradwire.db in ``state_dir`` if none is named."""
    lease_rows: int = Field(default=100, ge=1)
    """Rows of a budget that the server takes from the store at a time; 1: every call is charged there by itself."""
    keep_calls_days: float | None = Field(default=None, gt=0, le=36_500)
    """How long the ledger keeps a call; None: for ever. Usage and budgets know of it all the same."""
    health_listen: str | None = None
    """A second listener, in the clear, that serves grpc.health.v1 and nothing else."""
    metrics_listen: str | None = None
    """A listener that Prometheus scrapes, over HTTP in the clear."""
    metrics_principals: bool | None = None
    """Whether metrics name principals, whose budgets they show then; None: only on loopback."""
    tracing: TracingConfig | None = None
    models: list[ServedModel] = Field(min_length=1)
    engine: Literal["embedded", "ray"] = "embedded"
    """Where models are: in this process, or replicated over a Ray cluster."""
    ray: RayConfig = RayConfig()
    limits: Limits = Limits()
    state_dir: Path = Path(".gradwire")
    """Where versions are kept; in a file's configuration, relative to the file."""
    spool_dir: Path | None = None
    """Where training data beyond memory goes; the system's temporary folder if not said."""
    drain_timeout_s: float = Field(default=30.0, ge=0)
    """How long running calls may take to end after SIGTERM."""
    watchdog_s: float | None = Field(default=None, gt=0)
    """How long one batch may be computed before the model is taken for hung."""
    watchdog_exits: bool = True
    """Whether the process then ends, with exit code 70, to be started again."""
    log_format: Literal["text", "json"] = "text"

    @field_validator("listen", "health_listen", "metrics_listen")
    @classmethod
    def _address(cls, listen: str | None, info: ValidationInfo) -> str | None:
        if listen is None or (listen.startswith("unix:") and info.field_name != "metrics_listen"):
            return listen
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{listen!r} is not host:port; for example 127.0.0.1:50051, or port 0 for any free one")
        return listen

    @model_validator(mode="after")
    def _one_way_to_several(self) -> ServerConfig:
        if self.devices is not None and self.engine != "embedded":
            raise ValueError(f"devices and engine {self.engine!r} are both set, and each has processes of its own; leave one out")
        return self

    @model_validator(mode="after")
    def _encrypted(self) -> ServerConfig:
        if self.identity is not None and self.identity.client_ca is not None and self.tls is None:
            raise ValueError("identity.client_ca is there and tls is not, over which certificates are shown; add tls")
        return self
