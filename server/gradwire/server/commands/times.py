"""Ends of validity as people write them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def end_of(text: str, now: datetime) -> datetime:
    """The time that ``30d`` (``h``, ``d`` or ``w``), a date or a date with a time means; without a zone it is UTC.

    Raises:
        ValueError: It means none, or one that is over.
    """
    found = re.fullmatch(r"(\d{1,6})([hdw])", text)
    try:
        end = now + int(found[1]) * _UNITS[found[2]] if found else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no end; expected 12h, 30d or 8w, or a date such as {now.year + 1}-01-31") from None
    end = end.replace(microsecond=0, tzinfo=end.tzinfo or timezone.utc)
    if end <= now:
        raise ValueError(f"{text!r} is over; expected a time to come")
    return end
