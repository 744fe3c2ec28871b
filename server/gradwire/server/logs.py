"""The server's log: one line an event, for people or for machines. Calls on rows that go well are not logged."""

from __future__ import annotations

import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from gradwire.server.observe.scope import CallFields

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """``12:00:00 INFO loaded model=digits backend=torch``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        extra = " ".join(f"{key}={_on_one_line(value)}" for key, value in record.__dict__.items() if key not in _STANDARD)
        return f"{super().formatMessage(record)} {extra}".rstrip()


def _on_one_line(value: object) -> str:
    """What callers have written cannot look like other lines of the log."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def log_to_stderr(form: Literal["text", "json"]) -> None:
    """Sends the log of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    fields = "%(asctime)s %(levelname)s %(name)s %(message)s"
    handler.setFormatter(JsonFormatter(fields) if form == "json" else TextFormatter())
    # On the handler, so that it sees what other packages log too.
    handler.addFilter(CallFields())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
