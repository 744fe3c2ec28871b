"""The current call of a task, which every log line of that task names.

A successful call leaves nothing behind. A failed call stays current until the next call of its task begins, because
its error is logged after its end.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Protocol


class LoggedCall(Protocol):
    """A call that describes itself for the log."""

    def log_fields(self) -> dict[str, str]:
        """Returns the principal, model, operation and request_id of the call."""
        ...


CALL: ContextVar[LoggedCall | None] = ContextVar("gradwire_call", default=None)


class CallFields(logging.Filter):
    """Filter that adds the fields of the current call to log records, and passes all records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Adds the fields that the record lacks; see `logging.Filter`."""
        call = CALL.get()
        if call is not None:
            for key, value in call.log_fields().items():
                if value and key not in record.__dict__:
                    record.__dict__[key] = value
        return True
