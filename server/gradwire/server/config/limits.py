"""Configuration of limits on callers: sizes, times and numbers of calls."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Limits(BaseModel):
    """Limits on the calls of callers. Sizes are in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_calls: int = Field(default=1024, ge=1)
    """Calls admitted at the same time, running and waiting."""
    max_tensor_bytes: int = Field(default=16 << 30, ge=1)
    """Size of one tensor of a call, streamed or not."""
    max_held_bytes: int = Field(default=256 << 20, ge=1)
    """Memory of a call at one time: labels and cotangents, and each row block."""
    max_message_bytes: int = Field(default=5 << 20, ge=2 << 20)
    """Size of one gRPC message."""
    fit_memory_bytes: int = Field(default=512 << 20, ge=0)
    """Training data beyond this size is kept in a memory-mapped file."""
    stall_timeout_s: float = Field(default=60.0, gt=0)
    """A call ends if its client neither sends nor reads for this long in the middle of it."""
    idle_timeout_s: float = Field(default=600.0, gt=0)
    """A stream without calls is closed after this long; clients open a new one."""
    max_connection_age_s: float | None = Field(default=None, gt=0, le=2_000_000)
    """Age at which clients replace a connection, perhaps by one to another server; None: no limit."""
    max_connection_age_grace_s: float | None = Field(default=None, gt=0, le=2_000_000)
    """Time that running calls have to finish on an expired connection; None: no limit. Needs max_connection_age_s."""
    min_bytes_per_s: float = Field(default=4096.0, ge=0)
    """A call ends if its client sends or reads more slowly, over ``stall_timeout_s`` of waiting for it."""
    max_rows: int | None = Field(default=None, ge=1)
    """Rows of one call."""
    max_call_s: float | None = Field(default=None, gt=0)
    """Longest timeout of a call; also the timeout of calls that ask for none."""
    max_streams: int = Field(default=1024, ge=1)
    """Open streams of one caller."""
    max_queued_calls: int | None = Field(default=None, ge=1)
    """Calls of one caller, running and waiting; None: ``max_calls``."""
    max_clones: int = Field(default=4, ge=0)
    """Clones of each model at the same time."""

    @model_validator(mode="after")
    def _aging(self) -> Limits:
        if self.max_connection_age_grace_s is not None and self.max_connection_age_s is None:
            raise ValueError("max_connection_age_grace_s needs max_connection_age_s; set it too")
        return self
