"""Which call is under way, for the log: everything that is logged on the call's own task says which call it belongs to.

A call that went well leaves nothing behind. One that failed stays named until the next call of its task begins, because
its error is logged after it has ended.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Protocol


class Told(Protocol):
    """A call that can say what it is."""

    def told(self) -> dict[str, str]:
        """Who calls, and what: principal, model, operation, request_id."""
        ...


CALL: ContextVar[Told | None] = ContextVar("gradwire_call", default=None)


class CallFields(logging.Filter):
    """Adds what the call under way is to log records, and lets all of them pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        call = CALL.get()
        if call is not None:
            for key, value in call.told().items():
                if value and key not in record.__dict__:
                    record.__dict__[key] = value
        return True
