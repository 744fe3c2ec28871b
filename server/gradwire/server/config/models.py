"""Configuration of served models and of their replicas."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from gradwire.backends.config import ModelConfig
from gradwire.server.values.access import AccessLevel

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Pattern of the names of models and versions."""


class ReplicaOptions(BaseModel):
    """Number of replicas of a model, and the resources of each, with an engine that has replicas."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    least: int = Field(default=1, ge=1)
    most: int = Field(default=0, ge=0, validate_default=True)
    """Most replicas that waiting row blocks start; ``least`` by default."""
    queue: float = Field(default=2.0, gt=0)
    """Row blocks per replica, running and waiting, above which another replica is started."""
    cpus: float = Field(default=1.0, ge=0)
    gpus: float = Field(default=0.0, ge=0)
    """GPUs of each replica; with a fraction, several replicas share a GPU."""

    @field_validator("most")
    @classmethod
    def _at_least(cls, most: int, info: ValidationInfo) -> int:
        least = int(info.data.get("least", 1))  # missing if it is itself invalid
        if most and most < least:
            raise ValueError(f"{most} is less than least, which is {least}")
        return most or least


class RayConfig(BaseModel):
    """Ray cluster of the engine ``ray``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str | None = None
    """``auto`` or ``host:port``; by default RAY_ADDRESS of the environment, or a new cluster on this host."""
    app: str = Field(default="gradwire", pattern=NAME)
    """Prefix of the names of deployments. Servers on one cluster need different prefixes."""
    patience_s: float = Field(default=120.0, gt=0)
    """Longest wait for an answer of a replica. A lost node is detected, and its replicas restarted elsewhere, sooner."""


class ServedModel(BaseModel):
    """A served name: its own model, or another name's model with different access."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    name: str = Field(pattern=NAME)
    access: AccessLevel = "gradients"
    same_as: str | None = None
    model: ModelConfig | None = None
    replicas: ReplicaOptions = ReplicaOptions()
    """Replicas with the engine ``ray``; other engines have one, in this process."""
