"""The trace that a call belongs to, told to the server: only where the program uses OpenTelemetry itself."""

from __future__ import annotations

import sys


def traceparent() -> str:
    """The W3C trace context of the current span; empty where there is none, or OpenTelemetry has not been imported."""
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None:
        return ""
    context = opentelemetry.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
