"""Servers that faults happen to."""

from __future__ import annotations

from postgres import postgres

__all__ = ["postgres"]
