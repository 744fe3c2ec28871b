"""Parsing of expiry times."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def end_of(text: str, now: datetime) -> datetime:
    """Parses ``30d`` (``h``, ``d`` or ``w``), a date, or a date with a time; without a zone it is UTC.

    Raises:
        ValueError: The text is none of these, or its time has passed.
    """
    period = re.fullmatch(r"(\d{1,6})([hdw])", text)
    try:
        end = now + int(period[1]) * _UNITS[period[2]] if period else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is not an expiry time; expected 12h, 30d or 8w, or a date such as {now.year + 1}-01-31"
        ) from None
    end = end.replace(microsecond=0, tzinfo=end.tzinfo or timezone.utc)
    if end <= now:
        raise ValueError(f"{text!r} has passed; expected a time in the future")
    return end
