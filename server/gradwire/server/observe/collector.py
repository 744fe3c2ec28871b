"""Prometheus metrics of a server, computed at each scrape from counts that the server keeps anyway.

The table `METRICS` is complete, and a test compares it with the documentation. The values of every label are bounded: by the
configuration, by the grants, or by words of the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gradwire.server.catalogue.cards import device_uuid
from gradwire.server.observe.view import View
from gradwire.server.telemetry.batches import ROWS_BOUNDS, Batches
from gradwire.server.telemetry.counts import REFUSED, UNKNOWN, Histogram
from gradwire.server.trust.budgets.left import BudgetsLeft

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
Buckets = tuple[list[tuple[str, float]], float]
Sample = tuple[tuple[str, ...], float | Buckets]


class MetricSpec(NamedTuple):
    """Specification of one metric: its name, kind, labels and help text."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str


METRICS = (
    MetricSpec("gradwire_calls_total", "counter", ("model", "operation", "outcome"), "Calls that ended or were rejected."),
    MetricSpec("gradwire_rows_total", "counter", ("model", "operation", "direction"), "Rows charged, forward and backward."),
    MetricSpec("gradwire_call_duration_seconds", "histogram", ("model", "operation"), "Calls, from first to last message."),
    MetricSpec("gradwire_queue_calls", "gauge", ("model",), "Calls whose rows wait for the device."),
    MetricSpec("gradwire_queue_wait_seconds", "histogram", ("model",), "Waiting time of row blocks for the device."),
    MetricSpec("gradwire_batch_rows", "histogram", ("model", "operation"), "Rows computed in one batch."),
    MetricSpec("gradwire_batches_total", "counter", ("model", "operation"), "Batches computed."),
    MetricSpec("gradwire_batch_blocks_total", "counter", ("model", "operation"), "Row blocks of calls in these batches."),
    MetricSpec("gradwire_compute_seconds_total", "counter", ("model", "operation"), "Time of batches that did not fail."),
    MetricSpec("gradwire_received_bytes_total", "counter", (), "Bytes of messages on streams, from callers."),
    MetricSpec("gradwire_sent_bytes_total", "counter", (), "Bytes of messages on streams, to callers."),
    MetricSpec("gradwire_open_streams", "gauge", (), "Streams that callers hold open."),
    MetricSpec("gradwire_budget_left_rows", "gauge", ("principal", "model", "direction"), "Rows that may still be used now."),
    MetricSpec("gradwire_ledger_pending_calls", "gauge", (), "Calls not yet in the store."),
    MetricSpec("gradwire_ledger_lost_calls_total", "counter", (), "Calls lost before they reached the store."),
    MetricSpec("gradwire_device_memory_bytes", "gauge", ("device", "kind"), "Memory of devices; of the cpu, this process's."),
    MetricSpec("gradwire_device_utilization_ratio", "gauge", ("device",), "Fraction of time a GPU was busy, by NVML."),
    MetricSpec("gradwire_model_info", "gauge", ("model", "version", "backend", "device", "device_uuid"), "A served model; 1."),
    MetricSpec("gradwire_process_info", "gauge", ("server", "number", "device"), "One process of several at an address; 1."),
)


class ServerCollector(Collector):
    """Collector for scrapes of one server.

    Args:
        view: View of the server.
        left: Reader of budgets; None hides them, and with them the names of principals.
    """

    def __init__(self, view: View, left: BudgetsLeft | None) -> None:
        self._view = view
        self._left = left

    def describe(self) -> Iterable[Metric]:
        """Families without samples: nothing is read before the first scrape."""
        return [_family(spec) for spec in METRICS]

    def collect(self) -> Iterator[Metric]:
        """Every metric with its current samples."""
        samples = self._samples()
        for spec in METRICS:
            family = _family(spec)
            for labels, value in samples[spec.name]():
                if isinstance(family, HistogramMetricFamily):
                    assert isinstance(value, tuple)
                    family.add_metric(labels, *value)
                else:
                    assert isinstance(value, (int, float))
                    family.add_metric(labels, value)
            yield family

    def _samples(self) -> dict[str, Callable[[], Iterable[Sample]]]:
        view = self._view
        calls = list(view.trust.counts.of.items())
        batches = list(view.scheduler.tally.of.items())
        writer, traffic = view.trust.writer, view.streams.traffic

        def of_batches(value: Callable[[Batches], float]) -> list[Sample]:
            return [(key, value(its)) for key, its in batches]

        samples: dict[str, Callable[[], Iterable[Sample]]] = {
            "gradwire_calls_total": lambda: [
                *(((*key, outcome), number) for key, its in calls for outcome, number in list(its.outcomes.items())),
                *(((UNKNOWN, REFUSED, outcome), number) for outcome, number in list(traffic.refused.items())),
                ((UNKNOWN, REFUSED, "UNAUTHENTICATED"), view.streams.identity.refused_calls),
            ],
            "gradwire_rows_total": lambda: [
                ((*key, direction), getattr(its, direction)) for key, its in calls for direction in ("forward", "backward")
            ],
            "gradwire_call_duration_seconds": lambda: [(key, _buckets(its.seconds)) for key, its in calls],
            "gradwire_queue_calls": self._waiting,
            "gradwire_queue_wait_seconds": lambda: [
                ((model,), _buckets(waits)) for model, waits in list(view.scheduler.tally.waits.items())
            ],
            "gradwire_batch_rows": lambda: [
                (key, _cumulative(ROWS_BOUNDS, list(its.by_rows), float(its.rows))) for key, its in batches
            ],
            "gradwire_batches_total": lambda: of_batches(lambda its: its.batches),
            "gradwire_batch_blocks_total": lambda: of_batches(lambda its: its.blocks),
            "gradwire_compute_seconds_total": lambda: of_batches(lambda its: its.seconds),
            "gradwire_received_bytes_total": lambda: [((), traffic.received_nbytes)],
            "gradwire_sent_bytes_total": lambda: [((), traffic.sent_nbytes)],
            "gradwire_open_streams": lambda: [((), len(view.streams))],
            "gradwire_budget_left_rows": lambda: [(left[:3], left.rows) for left in (self._left.read() if self._left else [])],
            "gradwire_ledger_pending_calls": lambda: [((), writer.pending)],
            "gradwire_ledger_lost_calls_total": lambda: [((), writer.lost)],
            "gradwire_model_info": self._info,
            "gradwire_process_info": self._process,
        }
        devices = view.devices()
        samples["gradwire_device_memory_bytes"] = lambda: [
            ((device.name, kind), nbytes) for device in devices for kind, nbytes in device.reading.memory_nbytes.items()
        ]
        samples["gradwire_device_utilization_ratio"] = lambda: [
            ((device.name,), device.reading.utilisation) for device in devices if device.reading.utilisation is not None
        ]
        return samples

    def _waiting(self) -> list[Sample]:
        """Samples for all models, also with no waiting calls: a series that comes and goes is hard to watch."""
        waiting = self._view.scheduler.waiting()
        return [((model,), waiting.get(model, 0)) for model in sorted({served.model for served in self._view.served})]

    def _info(self) -> list[Sample]:
        infos: list[Sample] = []
        for served in self._view.served:
            estimator, model = served.estimator, served.estimator.model
            infos.append(((served.name, estimator.version, estimator.config.backend, model.device, device_uuid(model)), 1))
        return infos

    def _process(self) -> list[Sample]:
        process_index = self._view.process_index
        return [] if process_index is None else [((self._view.trust.server, str(process_index.number), process_index.device), 1)]


def _family(spec: MetricSpec) -> Family:
    if spec.kind == "counter":
        return CounterMetricFamily(spec.name.removesuffix("_total"), spec.text, labels=spec.labels)
    if spec.kind == "histogram":
        return HistogramMetricFamily(spec.name, spec.text, labels=spec.labels)
    return GaugeMetricFamily(spec.name, spec.text, labels=spec.labels)


def _buckets(histogram: Histogram) -> Buckets:
    return _cumulative(histogram.bounds, list(histogram.counts), histogram.total)


def _cumulative(bounds: Sequence[float], counts: list[int], total: float) -> Buckets:
    names = [*(repr(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(counts)), strict=True)), total
