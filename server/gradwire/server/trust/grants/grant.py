"""Grant of one principal for one served name, with its budget. A plain value, independent of models and callers."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from gradwire.backends.capabilities import Operation
from gradwire.server.store.records import BudgetLimits
from gradwire.server.values.access import GRANTED, AccessLevel, least_access
from gradwire.server.values.principals import ANONYMOUS, PRINCIPAL

_Rows = Annotated[int, Field(ge=0, lt=1 << 62)]


class Budget(BaseModel):
    """Limits of forward and backward rows, counted apart; None: no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    forward: _Rows | None = None
    backward: _Rows | None = None
    window_s: int | None = Field(default=None, ge=1, le=366 * 86_400)
    """Length of the window of ``window_forward`` and ``window_backward``; windows begin at its multiples since 1970, UTC."""
    window_forward: _Rows | None = None
    window_backward: _Rows | None = None
    rows_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Forward and backward rows together, on each server."""

    @cached_property
    def counts(self) -> tuple[bool, bool]:
        """True for forward and for backward rows if they are limited."""
        return (
            self.forward is not None or self.window_forward is not None,
            self.backward is not None or self.window_backward is not None,
        )

    @property
    def counted(self) -> bool:
        """True if forward or backward rows are limited."""
        return any(self.counts)

    @property
    def limits(self) -> BudgetLimits:
        """Limits in the form of the store."""
        return BudgetLimits(self.forward, self.backward, self.window_s, self.window_forward, self.window_backward)

    @model_validator(mode="after")
    def _whole_window(self) -> Budget:
        limited = self.window_forward is not None or self.window_backward is not None
        if limited != (self.window_s is not None):
            raise ValueError("window_s goes with window_forward, window_backward or both; set them together, or none")
        return self


UNLIMITED = Budget()


class Grant(BaseModel):
    """One entry of a grants file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    principal: str = Field(pattern=PRINCIPAL)
    model: str
    """Served name."""
    access: AccessLevel
    activations: bool = False
    """Adds activations and products with a layer's Jacobian to ``gradients`` and ``trainer``."""
    operations: frozenset[Operation] | None = None
    """Allowed operations among those of ``access``; None: all of them."""
    decimals: int | None = Field(default=None, ge=0, le=15)
    """Decimals that outputs of ``scores`` are rounded to."""
    top_k: int | None = Field(default=None, ge=1)
    """Number of outputs that ``scores`` shows of each row, the largest; the others become 0."""
    budget: Budget = UNLIMITED
    expires: AwareDatetime | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Grant:
        if (self.decimals is not None or self.top_k is not None) and self.access != "scores":
            raise ValueError(
                f"decimals and top_k need access 'scores'; access {self.access!r} shows "
                f"{'no scores' if self.access == 'labels' else 'scores through gradients and losses anyway'}"
            )
        if self.activations and Operation.GET_ACTIVATIONS not in GRANTED[self.access]:
            raise ValueError(f"activations needs access 'gradients' or 'trainer'; given: {self.access!r}")
        beyond = (self.operations or frozenset()) - GRANTED[self.access]
        if beyond:
            least = ", ".join(f"{operation.value} needs {least_access(operation)!r}" for operation in sorted(beyond))
            raise ValueError(f"operations must be among those of access {self.access!r}; {least}")
        return self

    @property
    def granted(self) -> frozenset[Operation]:
        """Granted operations, whether or not the model has them."""
        given = GRANTED[self.access]
        if not self.activations:
            given -= {Operation.GET_ACTIVATIONS}
        return given if self.operations is None else given & self.operations

    @property
    def rounded(self) -> bool:
        """True if outputs are rounded or cut to the top scores."""
        return self.decimals is not None or self.top_k is not None

    @property
    def expires_s(self) -> float:
        """Expiry in seconds since 1970; infinity: never."""
        return float("inf") if self.expires is None else self.expires.timestamp()

    @classmethod
    def of_everyone(cls, model: str, access: AccessLevel) -> Grant:
        """Returns the grant of every caller for a served name, on a server without identity."""
        return cls(principal=ANONYMOUS, model=model, access=access, activations=access in ("gradients", "trainer"))
