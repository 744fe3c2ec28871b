"""Index of a process among several that serve the same models at one address."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ProcessIndex(BaseModel):
    """Place of a process among the processes at its address.

    Attributes:
        number: Index of the process, from 0.
        count: Number of processes.
        device: Name of its device, as configured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    count: int
    device: str

    @property
    def fixed(self) -> str:
        """Reason that weights cannot be changed; empty for a single process, where they can.

        The kernel connects a client to any of the processes: after a fit in one of them, answers would depend on which.
        """
        if self.count == 1:
            return ""
        return (
            f"{self.count} processes answer at this address, and a fit, version or clone would exist in one of them only; "
            "to change weights, serve with a single device, or with `--engine ray`"
        )
