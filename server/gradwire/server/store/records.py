"""Records of the store as plain values: grants, budgets, calls and charges.

Times are microseconds since the epoch, UTC, in frequent records such as calls, and aware datetimes elsewhere.
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
    """Grant of a principal for a model, or a revocation, which overrides the grants file.

    Attributes:
        operations: Allowed operations; None: all of the access level.
        decimals: Decimals that scores are rounded to; None: not rounded.
        top_k: Number of the largest scores that are answered of each row; None: all.
        max_forward: Limit of forward rows in total; None: no limit, as for the other limits.
        window_s: Length of the windows, which begin at its multiples since the epoch; None: no windows.
        rows_per_s: Limit of rows per second, both directions together; None: no limit.
        expires_at: Expiry of the grant; None: never.
        updated_at: Time of the last change, set by the store.
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
        """Limits of the grant's budget."""
        return BudgetLimits(self.max_forward, self.max_backward, self.window_s, self.window_forward, self.window_backward)


@dataclass(frozen=True)
class StoredGrants:
    """All grants, with a generation that they are at least as new as."""

    generation: int
    grants: tuple[StoredGrant, ...]


@dataclass(frozen=True)
class BudgetLimits:
    """Limits of a budget, in total and in each window; None: no limit.

    Raises:
        ValueError: A window's limit has no length, or a number is negative.
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
    """Rows taken from a budget, for use by the holder of the lease.

    Attributes:
        window_s: Length of the window that they count in; None if only the total counts.
        window_start: Start of that window, seconds since the epoch.
        restocks: Number of restocks of the budget before the lease.
    """

    principal: str
    model: str
    rows: Rows
    window_s: int | None
    window_start: int
    restocks: int

    @property
    def window_end(self) -> int | None:
        """End of the window, seconds since the epoch; rows used later still count in it."""
        return None if self.window_s is None else self.window_start + self.window_s


@dataclass(frozen=True)
class Taken:
    """Rows of a budget that servers have taken, used or still leased.

    Attributes:
        total: Rows in total.
        window: Rows in the window that began at ``window_start``; none without a window.
        window_start: Start of the window, seconds since the epoch.
    """

    total: Rows
    window: Rows
    window_start: int


class CallRecord(NamedTuple):
    """A call in the ledger.

    Attributes:
        at_us: Start of the call, microseconds since the epoch.
        server: Server process that answered.
        version: Version of the model.
        operation: Operation in the client's words, for example ``loss_gradient``.
        rows: Rows that the caller sent.
        forward, backward: Charged rows.
        outcome: ``OK``, or the name of the contract's ErrorReason without ``ERROR_REASON_``.
        latency_us: Time until the answer was complete.
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
    """Charge for one request id and content, stored so that another server does not charge it again.

    Attributes:
        lease: Lease of the rows, for a refund if another server has charged the same; not stored.
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
    """Rows that one principal used of one model: the sum of the ledger."""

    principal: str
    model: str
    rows: Rows


@dataclass(frozen=True)
class CallFilter:
    """Filter of calls in the ledger; None matches every value.

    Attributes:
        since: First time included.
        until: First time excluded.
    """

    principal: str | None = None
    model: str | None = None
    operation: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def microseconds(moment: datetime) -> int:
    """Returns the exact microseconds since the epoch of an aware datetime."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone; expected an aware datetime, for example in timezone.utc")
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def moment(us: int) -> datetime:
    """Returns the UTC datetime of microseconds since the epoch; the inverse of `microseconds`."""
    seconds, rest = divmod(us, 1_000_000)
    return datetime.fromtimestamp(seconds, timezone.utc).replace(microsecond=rest)
