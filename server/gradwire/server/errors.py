"""Errors of the server, on its ground floor; `faults` maps each that a call can end with to a gRPC status.

Any room may raise or catch them without importing another room.
"""

from __future__ import annotations


class Draining(Exception):
    """The server is shutting down and accepts no new calls."""


class Hung(Exception):
    """The model has not returned from a computation in time."""


class TimedOut(Exception):
    """The caller's timeout has passed."""


class Stalled(Exception):
    """The client stopped sending or reading in the middle of a call."""


class ReplicaLost(Exception):
    """The replica died during a call that no other replica can answer."""


class UnknownModel(Exception):
    """No model is served under that name, or none is granted to the caller."""


class TooManyClones(Exception):
    """The model already has as many clones as `max_clones` allows."""


class BadName(Exception):
    """A version's name has characters that are not allowed; paths never are."""


class UnknownVersion(Exception):
    """No version has that name."""


class VersionExists(Exception):
    """A version of that name already exists."""


class QueueFull(Exception):
    """The queue is full: `max_calls` or `max_queued_calls` is reached.

    Attributes:
        retry_after_s: Seconds to wait before the next attempt.
    """

    def __init__(self, text: str, retry_after_s: float = 0.05) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class NotGranted(Exception):
    """The caller's grant does not include the operation or the answer."""


class BudgetSpent(Exception):
    """The budget has fewer rows left than the call needs.

    Attributes:
        quota: Name of the limit that is used up.
    """

    def __init__(self, problem: str, quota: str) -> None:
        super().__init__(problem)
        self.quota = quota


class BudgetShort(Exception):
    """The store's budget has fewer rows than the call needs; none were taken.

    Attributes:
        window_s: Length in seconds of the window that is short; None for the total.
        direction: ``forward`` or ``backward``.
        limit: Rows that the limit allows, in total or per window.
        left: Rows not taken by any server; servers may hold more, unused, in leases.
        needed: Rows that the call needs at least.
        refills_at: Seconds since the epoch when the window ends; None where waiting does not help.
    """

    def __init__(
        self, *, window_s: int | None, direction: str, limit: int, left: int, needed: int, refills_at: float | None
    ) -> None:
        per = "" if window_s is None else f" in each {window_s} s"
        super().__init__(f"{left} {direction} rows are left of {limit}{per}; the call needs {needed}")
        self.window_s = window_s
        self.direction = direction
        self.limit = limit
        self.left = left
        self.needed = needed
        self.refills_at = refills_at


class RateLimited(Exception):
    """The call exceeds the granted rows per second.

    Attributes:
        retry_after_s: Seconds until the call would be admitted.
    """

    def __init__(self, problem: str, retry_after_s: float) -> None:
        super().__init__(problem)
        self.retry_after_s = retry_after_s


class Unauthenticated(Exception):
    """The caller's token or certificate is missing or not valid."""


class StoreConfigError(Exception):
    """The store cannot be used as configured; retrying does not help."""


class StoreUnavailable(Exception):
    """The store is unavailable for now; the text gives the cause and the remedy.

    Attributes:
        uncertain: The connection was lost during a commit, which may or may not have succeeded. A lease taken may then be
            lost; rows refunded must not be refunded again.
    """

    def __init__(self, text: str, *, uncertain: bool = False) -> None:
        super().__init__(text)
        self.uncertain = uncertain


class ConfigError(Exception):
    """The configuration is invalid; the text names the key and a valid value."""
