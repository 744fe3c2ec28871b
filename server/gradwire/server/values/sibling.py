"""One of several processes that serve the same at one address, as it knows itself."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Sibling(BaseModel):
    """Which of the processes this is.

    Attributes:
        number: From 0 on.
        count: How many there are.
        device: What its device was named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    count: int
    device: str

    @property
    def fixed(self) -> str:
        """Why the weights of models stay as they were loaded; empty if it is alone, and they may change.

        The kernel leads connections to any of the processes: after a fit in one of them the answer would depend on which.
        """
        if self.count == 1:
            return ""
        return (
            f"{self.count} processes answer at this address, and a fit, a version or a clone would be in one of them alone; "
            "to change weights, serve with a single device, or with `--engine ray`"
        )
