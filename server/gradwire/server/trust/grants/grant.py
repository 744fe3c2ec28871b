"""What one principal may do with one served name, and how much of it. A value: it knows neither models nor callers."""

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
    """Most rows, forward and backward counted apart. None: no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    forward: _Rows | None = None
    backward: _Rows | None = None
    window_s: int | None = Field(default=None, ge=1, le=366 * 86_400)
    """The window that ``window_forward`` and ``window_backward`` hold in; windows begin at multiples of it since 1970, UTC."""
    window_forward: _Rows | None = None
    window_backward: _Rows | None = None
    rows_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Forward and backward together, on each server."""

    @cached_property
    def counts(self) -> tuple[bool, bool]:
        """Whether rows forward can run out, and rows backward."""
        return (
            self.forward is not None or self.window_forward is not None,
            self.backward is not None or self.window_backward is not None,
        )

    @property
    def counted(self) -> bool:
        """Whether rows can run out."""
        return any(self.counts)

    @property
    def limits(self) -> BudgetLimits:
        """As the store takes them."""
        return BudgetLimits(self.forward, self.backward, self.window_s, self.window_forward, self.window_backward)

    @model_validator(mode="after")
    def _whole_window(self) -> Budget:
        limited = self.window_forward is not None or self.window_backward is not None
        if limited != (self.window_s is not None):
            raise ValueError("window_s goes with window_forward, window_backward or both; give all that belongs together, or none")
        return self


UNLIMITED = Budget()


class Grant(BaseModel):
    """One entry of a grants file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    principal: str = Field(pattern=PRINCIPAL)
    model: str
    """The served name."""
    access: AccessLevel
    activations: bool = False
    """Of ``gradients`` and ``trainer``: activations, and products with the Jacobian of a layer, too."""
    operations: frozenset[Operation] | None = None
    """No other operations than these, of those that ``access`` gives; None: all of them."""
    decimals: int | None = Field(default=None, ge=0, le=15)
    """Of ``scores``: outputs are rounded to so many decimals."""
    top_k: int | None = Field(default=None, ge=1)
    """Of ``scores``: all but the largest outputs of a row are 0."""
    budget: Budget = UNLIMITED
    expires: AwareDatetime | None = None

    @model_validator(mode="after")
    def _of_one_piece(self) -> Grant:
        if (self.decimals is not None or self.top_k is not None) and self.access != "scores":
            raise ValueError(
                f"decimals and top_k need access 'scores'; access {self.access!r} shows "
                f"{'no scores' if self.access == 'labels' else 'them through gradients and losses anyway'}"
            )
        if self.activations and Operation.GET_ACTIVATIONS not in GRANTED[self.access]:
            raise ValueError(f"activations goes with access 'gradients' or 'trainer', not {self.access!r}")
        beyond = (self.operations or frozenset()) - GRANTED[self.access]
        if beyond:
            least = ", ".join(f"{operation.value} needs {least_access(operation)!r}" for operation in sorted(beyond))
            raise ValueError(f"operations are some of those that access {self.access!r} gives; {least}")
        return self

    @property
    def granted(self) -> frozenset[Operation]:
        """The operations that it gives, whatever the model can do."""
        given = GRANTED[self.access]
        if not self.activations:
            given -= {Operation.GET_ACTIVATIONS}
        return given if self.operations is None else given & self.operations

    @property
    def rounded(self) -> bool:
        """Whether outputs are made less telling."""
        return self.decimals is not None or self.top_k is not None

    @property
    def expires_s(self) -> float:
        """In seconds since 1970; infinity: never."""
        return float("inf") if self.expires is None else self.expires.timestamp()

    @classmethod
    def of_everyone(cls, model: str, access: AccessLevel) -> Grant:
        """What a served name gives to whoever calls, where callers are not told apart."""
        return cls(principal=ANONYMOUS, model=model, access=access, activations=access in ("gradients", "trainer"))
