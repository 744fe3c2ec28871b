"""Errors of the server, on its ground floor; `faults` maps each to a gRPC status.

Every other room may raise them, and none has to import the room that does.
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
