"""Configuration of served models and of their replicas."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from gradwire.backends.config import ModelConfig
from gradwire.server.values.access import AccessLevel

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Of models and versions."""


class ReplicaOptions(BaseModel):
    """How often a model is there, with an engine that has replicas, and what each of them needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    least: int = Field(default=1, ge=1)
    most: int = Field(default=0, ge=0, validate_default=True)
    """As many as are wanted when row blocks wait; ``least`` if not said."""
    queue: float = Field(default=2.0, gt=0)
    """Row blocks at a replica, computed and waiting, beyond which another replica is started."""
    cpus: float = Field(default=1.0, ge=0)
    gpus: float = Field(default=0.0, ge=0)
    """Of each replica; a part of one lets several replicas share a GPU."""

    @field_validator("most")
    @classmethod
    def _at_least(cls, most: int, info: ValidationInfo) -> int:
        least = int(info.data.get("least", 1))  # not there if it is wrong itself
        if most and most < least:
            raise ValueError(f"{most} is less than least, which is {least}")
        return most or least


class RayConfig(BaseModel):
    """The cluster of the engine ``ray``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str | None = None
    """``auto`` or ``host:port``; if not said, that of the environment's RAY_ADDRESS, or a cluster of this host alone."""
    app: str = Field(default="gradwire", pattern=NAME)
    """What the deployments' names begin with. Two servers on one cluster need two."""
    patience_s: float = Field(default=120.0, gt=0)
    """How long nobody may answer: a node that is gone is noticed, and its replicas are started elsewhere, in less."""


class ServedModel(BaseModel):
    """One served name: a model of its own, or another model's under this name with other access."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    name: str = Field(pattern=NAME)
    access: AccessLevel = "gradients"
    same_as: str | None = None
    model: ModelConfig | None = None
    replicas: ReplicaOptions = ReplicaOptions()
    """Of the engine ``ray``; with another one there is one, here."""
