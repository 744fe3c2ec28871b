"""Traces of calls over OpenTelemetry, with spans for queue waits, computations and the answer.

The decision to trace a call is taken when it begins: by the caller's trace context, if it sends one, else at random.
Traced calls record timestamps only; spans are built when the call ends. Untraced calls cost nothing.

This file is imported only where tracing is configured; see the extra ``tracing``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from gradwire.server.store.records import CallRecord

_MAX_TRACEPARENT = 64
"""Characters; version 00 has 55."""
_MAX_BLOCKS = 64
"""Most spans of computations per call; a fit or a million rows would create too many."""
_FLUSH_MS = 5_000
_S = 1_000_000_000

Attributes = Mapping[str, str | int]


class Tracing:
    """Creates and exports the spans of one server.

    Args:
        processor: Receives ended spans.
        ratio: Fraction of calls without a trace context that is traced.
        server: Name of this server process.
    """

    def __init__(self, processor: SpanProcessor, ratio: float, server: str) -> None:
        resource = Resource.create(
            {"service.name": "gradwire", "service.version": version("gradwire"), "service.instance.id": server}
        )
        self._provider = TracerProvider(sampler=ParentBased(ALWAYS_ON), resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("gradwire.server")
        self._ratio = ratio
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def to(cls, endpoint: str, ratio: float, server: str) -> Tracing:
        """Creates a tracing that exports to an OTLP collector over HTTP; to ``/v1/traces`` unless the endpoint has a path."""
        return cls(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)), ratio, server)

    def begin(self, operation: str, traceparent: str, at_us: int) -> CallTrace | None:
        """Begins the trace of a call; returns None if the call is not traced.

        Args:
            operation: Operation, for the name of the span.
            traceparent: W3C trace context of the caller; empty for none. An invalid one counts as none.
            at_us: Start of the call, microseconds since the epoch.
        """
        context = self._propagator.extract({"traceparent": traceparent[:_MAX_TRACEPARENT]}) if traceparent else Context()
        if not context and random.random() >= self._ratio:
            return None
        span = self._tracer.start_span(f"gradwire {operation}", context, SpanKind.SERVER, start_time=at_us * 1000)
        return CallTrace(self, span) if span.is_recording() else None

    def span(self, parent: Span, name: str, begin_ns: int, end_ns: int, attributes: Attributes) -> None:
        """Adds a span that has ended."""
        child = self._tracer.start_span(name, set_span_in_context(parent), start_time=begin_ns, attributes=dict(attributes))
        child.end(end_ns)

    def close(self) -> None:
        """Exports the remaining spans, if the collector accepts them within 5 seconds."""
        self._provider.force_flush(_FLUSH_MS)
        self._provider.shutdown()


class _Block(NamedTuple):
    """A computed row block or step of a fit; times are those of time.monotonic()."""

    operation: str
    queued_s: float
    taken_s: float
    done_s: float
    blocks: int
    rows: int


class CallTrace:
    """Timestamps of one traced call. `computed` may be called from any thread."""

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self._tracing = tracing
        self._span = span
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._blocks: list[_Block] = []
        self._left_out = 0
        self._writes: tuple[float, float] | None = None
        self._written = 0

    def computed(self, operation: str, queued_s: float, taken_s: float, blocks: int, rows: int) -> None:
        """Records a row block whose computation has just ended.

        Args:
            operation: Computed operation.
            queued_s: Time of queueing, by time.monotonic().
            taken_s: Time when the computation began.
            blocks: Number of blocks in the same batch, including this one.
            rows: Rows of the batch.
        """
        if len(self._blocks) < _MAX_BLOCKS:
            self._blocks.append(_Block(operation, queued_s, taken_s, time.monotonic(), blocks, rows))
        else:
            self._left_out += 1

    def wrote(self, since_s: float, nbytes: int) -> None:
        """Records a sent message of the answer, and the time when sending began, by time.monotonic()."""
        self._writes = (since_s if self._writes is None else self._writes[0], time.monotonic())
        self._written += nbytes

    def end(self, call: CallRecord) -> None:
        """Ends the trace, and builds its spans."""
        span = self._span
        span.set_attributes(
            {
                "gradwire.model": call.model,
                "gradwire.version": call.version,
                "gradwire.operation": call.operation,
                "gradwire.principal": call.principal,
                "gradwire.request_id": call.request_id,
                "gradwire.rows": call.rows,
                "gradwire.rows.forward": call.forward,
                "gradwire.rows.backward": call.backward,
                "gradwire.outcome": call.outcome,
            }
        )
        if call.outcome != "OK":
            span.set_status(StatusCode.ERROR, call.outcome)
        if self._left_out:
            span.set_attribute("gradwire.blocks_without_spans", self._left_out)
        for block in list(self._blocks):
            if block.queued_s < block.taken_s:
                self._add("queue wait", block.queued_s, block.taken_s, {})
            batch = {"gradwire.batch.blocks": block.blocks, "gradwire.batch.rows": block.rows}
            self._add("compute", block.taken_s, block.done_s, {"gradwire.function": block.operation, **batch})
        if self._writes is not None:
            self._add("write", *self._writes, {"gradwire.bytes": self._written})
        span.end()

    def _add(self, name: str, begin_s: float, end_s: float, attributes: Attributes) -> None:
        begin_ns, end_ns = (int(moment_s * _S) + self._offset_ns for moment_s in (begin_s, end_s))
        self._tracing.span(self._span, name, begin_ns, end_ns, attributes)
