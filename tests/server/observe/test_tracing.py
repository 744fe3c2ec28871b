"""Traces: from a client's own span to the device, over a real OTLP collector; and the attributes of spans."""

from __future__ import annotations

import gzip
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import environment
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from gradwire.client import connect
from gradwire.client.errors import UnknownModel
from gradwire.client.estimator import RemoteEstimator
from gradwire.client.transport.tracing import traceparent
from gradwire.server import serving
from gradwire.server.errors import ConfigError
from gradwire.server.store.records import CallRecord
from gradwire.server.telemetry.tracing import Tracing
from models import mlp

DIGITS: dict[str, Any] = {
    "backend": "torch",
    "factory": mlp,
    "loss": "torch.nn.CrossEntropyLoss",
    "optimizer": {"path": "torch.optim.SGD", "args": {"lr": 0.01}},
    "input_shape": [6],
    "nb_classes": 4,
    "access": "trainer",
}
X = np.linspace(-1, 1, 18).reshape(3, 6)


class Collector:
    """Collector that receives OTLP over HTTP.

    Attributes:
        spans: What came.
        resources: What each batch of them says of its server.
        paths: Where to.
    """

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.paths: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.paths.add(self.path)
                for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    collector.resources.append({its.key: its.value.string_value for its in of_resource.resource.attributes})
                    for of_scope in of_resource.scope_spans:
                        collector.spans.extend(of_scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def of(self, trace_id: int) -> dict[str, Any]:
        """The spans of one trace, by name."""
        return {span.name: span for span in self.spans if int.from_bytes(span.trace_id, "big") == trace_id}


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, daemon=True)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


@pytest.fixture
def tracer() -> Any:
    """A program's own tracer."""
    return TracerProvider().get_tracer("program")


def attributes(span: Any) -> dict[str, Any]:
    return {its.key: its.value.string_value or its.value.int_value for its in span.attributes}


def test_a_clients_span_is_the_parent_of_the_servers(collector: Collector, tracer: Any) -> None:
    with serving({"digits": DIGITS}, tracing={"endpoint": collector.address, "ratio": 0.0}) as address:
        with connect(address) as server:
            digits = server.estimator("digits")
            digits.predict(X)  # in no span of the client's
            with tracer.start_as_current_span("attack") as span:
                digits.loss_gradient(X, np.array([0, 1, 2]))
    context = span.get_span_context()
    spans = collector.of(context.trace_id)
    assert collector.paths == {"/v1/traces"}
    assert len(collector.spans) == len(spans)  # nothing of the other call
    assert set(spans) == {"gradwire loss_gradient", "queue wait", "compute", "write"}
    call = spans["gradwire loss_gradient"]
    assert int.from_bytes(call.parent_span_id, "big") == context.span_id
    assert all(spans[name].parent_span_id == call.span_id for name in ("queue wait", "compute", "write"))
    said = attributes(call)
    assert (said["gradwire.model"], said["gradwire.rows"], said["gradwire.outcome"]) == ("digits", 3, "OK")
    assert said["gradwire.principal"] == "anonymous"
    assert said["gradwire.request_id"]
    assert attributes(spans["compute"])["gradwire.batch.rows"] == 3
    assert attributes(spans["compute"])["gradwire.function"] == "loss_gradient"
    assert attributes(spans["write"])["gradwire.bytes"] >= X.nbytes
    assert all(its["service.name"] == "gradwire" for its in collector.resources)
    moments = [call.start_time_unix_nano, spans["queue wait"].start_time_unix_nano, spans["queue wait"].end_time_unix_nano]
    moments += [spans["compute"].end_time_unix_nano, spans["write"].end_time_unix_nano, call.end_time_unix_nano]
    # Clocks: the call's begin is read from one, the steps in it from another.
    assert all(later - earlier > -2_000_000 for earlier, later in itertools.pairwise(moments)), moments
    assert abs(call.end_time_unix_nano - time.time_ns()) < 120e9


def test_a_part_of_the_calls_without_a_context_is_traced(collector: Collector) -> None:
    with serving({"digits": DIGITS}, tracing={"endpoint": f"{collector.address}/somewhere/else", "ratio": 1.0}) as address:
        with connect(address) as server:
            digits = server.estimator("digits")
            digits.predict(X)
            digits.fit(X, np.array([0, 1, 2]), batch_size=1, nb_epochs=40)
    assert collector.paths == {"/somewhere/else"}
    predict, fit = (next(span for span in collector.spans if span.name == f"gradwire {name}") for name in ("predict", "fit"))
    assert predict.trace_id != fit.trace_id
    # A fit has steps without end; the first of them have spans.
    steps = [span for span in collector.spans if span.name == "compute" and span.trace_id == fit.trace_id]
    assert len(steps) == 64
    assert attributes(fit)["gradwire.blocks_without_spans"] > 40


def test_a_call_that_fails_says_so_in_its_span(collector: Collector, tracer: Any) -> None:
    with serving({"digits": DIGITS}, tracing={"endpoint": collector.address}) as address, connect(address) as server:
        card = server.estimator("digits").card
        made_up = RemoteEstimator(server, type(card)(**{**card.__dict__, "name": "nothing"}))
        with tracer.start_as_current_span("attack") as span, pytest.raises(UnknownModel):
            made_up.predict(X)
    (call,) = collector.of(span.get_span_context().trace_id).values()
    assert attributes(call)["gradwire.outcome"] == "UNKNOWN_MODEL"
    assert call.status.code == 2


def test_a_collector_that_is_not_there_harms_no_call(free_port: int) -> None:
    with serving({"digits": DIGITS}, tracing={"endpoint": f"http://127.0.0.1:{free_port}", "ratio": 1.0}) as address:
        with connect(address) as server:
            assert server.estimator("digits").predict(X).shape == (3, 4)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "grpc://127.0.0.1:4317", "http://"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"tracing.endpoint: .*is not an http or https URL"):
        with serving({"digits": DIGITS}, tracing={"endpoint": endpoint}):
            pass


@pytest.fixture
def recorded() -> tuple[Tracing, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    return Tracing(SimpleSpanProcessor(exporter), 0.0, "host:1"), exporter


CALL = CallRecord(0, "host:1", "alice", "digits", "initial", "predict", 3, 3, 0, "OK", 10, "id")
SAMPLED = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def test_blocks_that_are_computed_together_say_how_many(recorded: tuple[Tracing, InMemorySpanExporter]) -> None:
    tracing, exporter = recorded
    trace = tracing.begin("predict", SAMPLED, time.time_ns() // 1000)
    assert trace is not None
    now_s = time.monotonic()
    trace.computed("predict", now_s - 0.3, now_s - 0.2, blocks=4, rows=64)
    trace.computed("predict", now_s - 0.2, now_s - 0.2, blocks=1, rows=3)
    trace.end(CALL)
    names = [span.name for span in exporter.get_finished_spans()]
    assert names == ["queue wait", "compute", "compute", "gradwire predict"]  # who did not wait has no wait
    wait, first, *_, call = exporter.get_finished_spans()
    assert wait.end_time - wait.start_time == pytest.approx(0.1e9, abs=1e6)
    assert first.start_time == wait.end_time
    assert dict(first.attributes)["gradwire.batch.blocks"] == 4
    assert call.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("context", ["", "nonsense", SAMPLED[:-2] + "00", "x" * 100_000, "00-" + "0" * 32 + SAMPLED[35:]])
def test_what_is_not_a_sampled_context_makes_no_spans(recorded: tuple[Tracing, InMemorySpanExporter], context: str) -> None:
    assert recorded[0].begin("predict", context, 0) is None


def test_the_client_does_not_load_opentelemetry(tmp_path: Path) -> None:
    code = "import sys, gradwire.client; assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), cwd=tmp_path)


def test_the_client_knows_the_context_of_the_current_span_and_of_none(tracer: Any) -> None:
    assert traceparent() == ""
    with tracer.start_as_current_span("attack") as span:
        context = span.get_span_context()
        assert traceparent() == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        assert context.trace_flags.sampled
