"""What goes into the store and comes out of it, as plain values.

Times are microseconds since the epoch, UTC, where calls are counted by the thousand, and aware datetimes elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple

from gradwire.backends.capabilities import Operation
from gradwire.server.values.access import AccessLevel
from gradwire.server.values.rows import Rows

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class StoredGrant:
    """What a principal may do with a model, or, revoked, that it may do nothing whatever a file says.

    Attributes:
        operations: No other operations than these; None: all that the access gives.
        decimals: Digits after the point that scores are rounded to; None: all.
        top_k: Scores that are answered of each row, the greatest; None: all.
        max_forward: Rows that may go forward in all; None: any number. So for the other limits.
        window_s: Length of the windows, which begin at its multiples since the epoch; None: there are none.
        rows_per_s: Rows of both directions; None: as fast as the model is.
        expires_at: When the grant ends; None: never.
        updated_at: Set by the store.
    """

    principal: str
    model: str
    access: AccessLevel
    activations: bool = False
    operations: frozenset[Operation] | None = None
    decimals: int | None = None
    top_k: int | None = None
    max_forward: int | None = None
    max_backward: int | None = None
    window_s: int | None = None
    window_forward: int | None = None
    window_backward: int | None = None
    rows_per_s: float | None = None
    expires_at: datetime | None = None
    revoked: bool = False
    updated_at: datetime | None = None

    @property
    def limits(self) -> BudgetLimits:
        """Of the grant's budget."""
        return BudgetLimits(self.max_forward, self.max_backward, self.window_s, self.window_forward, self.window_backward)


@dataclass(frozen=True)
class StoredGrants:
    """All grants, and the generation that they are at least as new as."""

    generation: int
    grants: tuple[StoredGrant, ...]


@dataclass(frozen=True)
class BudgetLimits:
    """Rows that may be taken of a budget, in all and in each window; None: any number.

    Raises:
        ValueError: A window's limit without its length, or a number that cannot be one.
    """

    max_forward: int | None = None
    max_backward: int | None = None
    window_s: int | None = None
    window_forward: int | None = None
    window_backward: int | None = None

    def __post_init__(self) -> None:
        if self.window_s is None and (self.window_forward is not None or self.window_backward is not None):
            raise ValueError("window_forward and window_backward need window_s, the window's length in seconds")
        if self.window_s is not None and self.window_s < 1:
            raise ValueError(f"window_s is {self.window_s}; expected at least 1 second")
        for name in ("max_forward", "max_backward", "window_forward", "window_backward"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more rows")


@dataclass(frozen=True)
class Lease:
    """Rows that have been taken of a budget and are the holder's to use.

    Attributes:
        window_s: The window that they count in, None if only the total does.
        window_start: When that window began, seconds since the epoch.
        restocks: How often the budget had been restocked.
    """

    principal: str
    model: str
    rows: Rows
    window_s: int | None
    window_start: int
    restocks: int

    @property
    def window_end(self) -> int | None:
        """When the window ends, seconds since the epoch; rows used later still count in it."""
        return None if self.window_s is None else self.window_start + self.window_s


@dataclass(frozen=True)
class Taken:
    """Rows of a budget that servers have taken, whether used by now or still held.

    Attributes:
        window: Those of the window that began at ``window_start``; none if it is not asked for.
    """

    total: Rows
    window: Rows
    window_start: int


class CallRecord(NamedTuple):
    """One call, as the ledger keeps it.

    Attributes:
        at_us: When it began, microseconds since the epoch.
        server: The server process that answered.
        version: Of the model.
        operation: As the contract's clients name it, for example ``loss_gradient``.
        rows: Rows that the caller sent.
        forward, backward: Rows that it was charged.
        outcome: ``OK``, or the name of the contract's ErrorReason without ``ERROR_REASON_``.
        latency_us: Until the answer was complete.
    """

    at_us: int
    server: str
    principal: str
    model: str
    version: str
    operation: str
    rows: int
    forward: int
    backward: int
    outcome: str
    latency_us: int
    request_id: str


class ChargeRecord(NamedTuple):
    """What has been charged for one request id and content, so that another server does not charge it again.

    Attributes:
        lease: What the rows were taken of, to give them back if another server turns out to have charged the same; it is not kept.
    """

    principal: str
    model: str
    request_id: str
    digest: bytes
    forward: int
    backward: int
    at_us: int
    lease: Lease | None = None


@dataclass(frozen=True)
class UsedRows:
    """What one principal used of one model: the sum of the ledger."""

    principal: str
    model: str
    rows: Rows


@dataclass(frozen=True)
class CallFilter:
    """Which calls of the ledger; None: whatever they say there.

    Attributes:
        since: The first moment.
        until: The first moment after.
    """

    principal: str | None = None
    model: str | None = None
    operation: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def microseconds(moment: datetime) -> int:
    """Of an aware datetime since the epoch, exactly."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone; expected an aware datetime, for example in timezone.utc")
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def moment(us: int) -> datetime:
    """The inverse of `microseconds`, in UTC."""
    seconds, rest = divmod(us, 1_000_000)
    return datetime.fromtimestamp(seconds, timezone.utc).replace(microsecond=rest)
