"""The metrics of a server, for Prometheus: read from what is counted anyway, when they are asked for.

The table `METRICS` is all there is, and what the documentation is held against. Every label's values are bounded: by the
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


class Described(NamedTuple):
    """One metric: its name, kind, labels, and what it says."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str


METRICS = (
    Described("gradwire_calls_total", "counter", ("model", "operation", "outcome"), "Calls that have ended, and those refused."),
    Described("gradwire_rows_total", "counter", ("model", "operation", "direction"), "Rows charged, forward and backward."),
    Described("gradwire_call_duration_seconds", "histogram", ("model", "operation"), "Calls, from first to last message."),
    Described("gradwire_queue_calls", "gauge", ("model",), "Calls whose rows wait for the device."),
    Described("gradwire_queue_wait_seconds", "histogram", ("model",), "How long row blocks waited for the device."),
    Described("gradwire_batch_rows", "histogram", ("model", "operation"), "Rows that were computed at once."),
    Described("gradwire_batches_total", "counter", ("model", "operation"), "Batches computed."),
    Described("gradwire_batch_blocks_total", "counter", ("model", "operation"), "Row blocks of calls in these batches."),
    Described("gradwire_compute_seconds_total", "counter", ("model", "operation"), "Time of batches that did not fail."),
    Described("gradwire_received_bytes_total", "counter", (), "Bytes of messages on streams, from callers."),
    Described("gradwire_sent_bytes_total", "counter", (), "Bytes of messages on streams, to callers."),
    Described("gradwire_open_streams", "gauge", (), "Streams that callers hold open."),
    Described("gradwire_budget_left_rows", "gauge", ("principal", "model", "direction"), "Rows that may still be used now."),
    Described("gradwire_ledger_pending_calls", "gauge", (), "Calls that are not in the store yet."),
    Described("gradwire_ledger_lost_calls_total", "counter", (), "Calls that never will be in the store."),
    Described("gradwire_device_memory_bytes", "gauge", ("device", "kind"), "Memory of devices; of the cpu, this process's."),
    Described("gradwire_device_utilization_ratio", "gauge", ("device",), "Part of the time in which a GPU was busy, by NVML."),
    Described("gradwire_model_info", "gauge", ("model", "version", "backend", "device", "device_uuid"), "What is served; 1."),
    Described("gradwire_process_info", "gauge", ("server", "number", "device"), "Of several at one address, which process; 1."),
)


class ServerCollector(Collector):
    """Answers scrapes.

    Args:
        view: Of the server.
        left: Budgets; None: they, and with them the names of principals, are not shown.
    """

    def __init__(self, view: View, left: BudgetsLeft | None) -> None:
        self._view = view
        self._left = left

    def describe(self) -> Iterable[Metric]:
        """Names alone: nothing is read before the first scrape."""
        return [_family(described) for described in METRICS]

    def collect(self) -> Iterator[Metric]:
        """Every metric, with what it is now."""
        samples = self._samples()
        for described in METRICS:
            family = _family(described)
            for labels, value in samples[described.name]():
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
        """Also of models that nobody waits for: a series that comes and goes is hard to watch."""
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


def _family(described: Described) -> Family:
    if described.kind == "counter":
        return CounterMetricFamily(described.name.removesuffix("_total"), described.text, labels=described.labels)
    if described.kind == "histogram":
        return HistogramMetricFamily(described.name, described.text, labels=described.labels)
    return GaugeMetricFamily(described.name, described.text, labels=described.labels)


def _buckets(histogram: Histogram) -> Buckets:
    return _cumulative(histogram.bounds, list(histogram.counts), histogram.total)


def _cumulative(bounds: Sequence[float], counts: list[int], total: float) -> Buckets:
    names = [*(repr(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(counts)), strict=True)), total
