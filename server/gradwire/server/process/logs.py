"""The server's log: one line an event, for people or for machines. Calls on rows that go well are not logged."""

from __future__ import annotations

import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from gradwire.server.telemetry.scope import CallFields

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """``12:00:00 INFO loaded model=digits backend=torch``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        # What begins with an underscore other packages have put there, for themselves.
        said = ((key, value) for key, value in record.__dict__.items() if key not in _STANDARD and not key.startswith("_"))
        extra = " ".join(f"{key}={_on_one_line(value)}" for key, value in said)
        return f"{super().formatMessage(record)} {extra}".rstrip()


def _on_one_line(value: object) -> str:
    """What callers have written cannot look like other lines of the log."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def log_to_stderr(form: Literal["text", "json"], **always: str) -> None:
    """Sends the log of this process to stderr. ``always`` are fields that every line has."""

    def tell(record: logging.LogRecord) -> bool:
        record.__dict__.update(always)
        return True

    handler = logging.StreamHandler(sys.stderr)
    fields = "%(asctime)s %(levelname)s %(name)s %(message)s"
    handler.setFormatter(JsonFormatter(fields) if form == "json" else TextFormatter())
    # On the handler, so that it sees what other packages log too.
    handler.addFilter(CallFields())
    handler.addFilter(tell)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
