"""Log of the server: one line an event, as text or JSON. Successful calls on rows are not logged."""

from __future__ import annotations

import logging
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from gradwire.server.telemetry.scope import CallFields

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class TextFormatter(logging.Formatter):
    """Formatter of lines such as ``12:00:00 INFO loaded model=digits backend=torch``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The message, followed by the record's own fields."""
        # Keys with an underscore are private to other packages.
        fields = ((key, value) for key, value in record.__dict__.items() if key not in _STANDARD and not key.startswith("_"))
        extra = " ".join(f"{key}={_on_one_line(value)}" for key, value in fields)
        return f"{super().formatMessage(record)} {extra}".rstrip()


def _on_one_line(value: object) -> str:
    """Text of a value on one line, so that values from callers cannot forge lines of the log."""
    text = str(value)
    return text if text.isprintable() else repr(text)


def log_to_stderr(form: Literal["text", "json"], **always: str) -> None:
    """Sends the log of this process to stderr. ``always`` are fields of every line."""

    def add_fields(record: logging.LogRecord) -> bool:
        record.__dict__.update(always)
        return True

    handler = logging.StreamHandler(sys.stderr)
    fields = "%(asctime)s %(levelname)s %(name)s %(message)s"
    handler.setFormatter(JsonFormatter(fields) if form == "json" else TextFormatter())
    # On the handler, so that the filters see the records of other packages too.
    handler.addFilter(CallFields())
    handler.addFilter(add_fields)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
