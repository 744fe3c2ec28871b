"""Trace context of a call, for programs that use OpenTelemetry."""

from __future__ import annotations

import sys


def traceparent() -> str:
    """Returns the W3C trace context of the current span; empty without a span or without OpenTelemetry."""
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None:
        return ""
    context = opentelemetry.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
