"""Fixtures that read the metrics of running servers."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@pytest.fixture
def scrape() -> Callable[[int], dict[str, dict[Labels, float]]]:
    """``scrape(port)``: every sample by name and labels, read by Prometheus's own parser."""

    def read(port: int) -> dict[str, dict[Labels, float]]:
        # A call is counted when its answer has been sent, and the test may be faster.
        time.sleep(0.3)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                at = found.setdefault(sample.name, {})
                labels = frozenset(sample.labels.items())
                assert labels not in at, f"{sample.name} is there twice with {sample.labels}"
                at[labels] = sample.value
        return found

    return read
