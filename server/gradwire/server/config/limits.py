"""Limits on callers: sizes, times and numbers of calls."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Limits(BaseModel):
    """What the server takes from callers at most. Sizes are in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_calls: int = Field(default=1024, ge=1)
    """Calls admitted at the same time, running and waiting."""
    max_tensor_bytes: int = Field(default=16 << 30, ge=1)
    """One tensor of a call, streamed or not."""
    max_held_bytes: int = Field(default=256 << 20, ge=1)
    """What a call holds in memory at once: labels and cotangents, and each row block."""
    max_message_bytes: int = Field(default=5 << 20, ge=2 << 20)
    """One gRPC message."""
    fit_memory_bytes: int = Field(default=512 << 20, ge=0)
    """Training data beyond this is kept in a memory-mapped file."""
    stall_timeout_s: float = Field(default=60.0, gt=0)
    """A client that sends or takes nothing for so long in the middle of a call has lost it."""
    idle_timeout_s: float = Field(default=600.0, gt=0)
    """A stream without calls is ended after this long; clients open a new one."""
    max_connection_age_s: float | None = Field(default=None, gt=0, le=2_000_000)
    """Callers open a new connection after about this long, which may lead to another server; None: they keep theirs."""
    max_connection_age_grace_s: float | None = Field(default=None, gt=0, le=2_000_000)
    """Calls that are under way then may go on for so long; None: until they end."""
    min_bytes_per_s: float = Field(default=4096.0, ge=0)
    """A client that sends or takes less, over ``stall_timeout_s`` of waiting for it, has lost its call."""
    max_rows: int | None = Field(default=None, ge=1)
    """Of one call."""
    max_call_s: float | None = Field(default=None, gt=0)
    """A call that asks for more time, or does not say, gets so much."""
    max_streams: int = Field(default=1024, ge=1)
    """Open streams of one caller."""
    max_queued_calls: int | None = Field(default=None, ge=1)
    """Calls of one caller, running and waiting; None: ``max_calls``."""
    max_clones: int = Field(default=4, ge=0)
    """Clones of each model at the same time."""

    @model_validator(mode="after")
    def _aging(self) -> Limits:
        if self.max_connection_age_grace_s is not None and self.max_connection_age_s is None:
            raise ValueError("max_connection_age_grace_s is there and max_connection_age_s is not, after which it begins; add it")
        return self
