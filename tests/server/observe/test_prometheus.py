"""A real Prometheus scrapes a real server. Debian's package `prometheus` has both programs."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import yaml
from processes import server_process

from gradwire.client import connect
from gradwire.server.observe.collector import METRICS

needs_prometheus = pytest.mark.program("prometheus")
needs_promtool = pytest.mark.program("promtool")

CNN = {"name": "digits", "backend": "torch", "factory": "models:cnn", "input_shape": [1, 8, 8], "nb_classes": 5}
RULES = sorted((Path(__file__).parents[3] / "deploy/prometheus").rglob("*rules*.y*ml"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the metrics of a server that has computed something."""
    folder = tmp_path_factory.mktemp("watched")
    with server_process(folder, [CNN], metrics_listen="127.0.0.1:0", log_format="json") as server:
        (told,) = [its for line in server.log.read_text().splitlines() if (its := json.loads(line))["message"] == "metrics"]
        with connect(server.address) as connection:
            digits = connection.estimator("digits")
            for _ in range(5):
                digits.predict(np.zeros((2, 1, 8, 8), np.float32))
        yield told["address"]


@needs_promtool
def test_promtool_finds_nothing_wrong(watched: str) -> None:
    with urllib.request.urlopen(f"http://{watched}/metrics") as answer:
        ended = subprocess.run(["promtool", "check", "metrics"], input=answer.read(), capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode() + ended.stdout.decode()


@needs_promtool
@pytest.mark.skipif(not RULES, reason="there are no rules in deploy/prometheus")
def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    ended = subprocess.run(["promtool", "check", "rules", *map(str, RULES)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture
def prometheus(tmp_path: Path, free_port: int, watched: str) -> Iterator[str]:
    """The address of a Prometheus that scrapes the server every half second."""
    config = {"scrape_configs": [{"job_name": "gradwire", "scrape_interval": "500ms", "static_configs": [{"targets": [watched]}]}]}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"global": {"scrape_timeout": "500ms"}, **config}))
    address = f"127.0.0.1:{free_port}"
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@needs_prometheus
def test_prometheus_reads_the_metrics(prometheus: str) -> None:
    def ask(query: str) -> list[dict[str, object]]:
        with urllib.request.urlopen(f"http://{prometheus}/api/v1/query?query={quote(query)}", timeout=10) as answer:
            found: list[dict[str, object]] = json.load(answer)["data"]["result"]
            return found

    end_s, found = time.monotonic() + 60, []
    while not found:
        assert time.monotonic() < end_s, "Prometheus has read nothing in a minute"
        time.sleep(0.25)
        try:
            found = ask('gradwire_calls_total{model="digits"}')
        except OSError:  # it is not up yet, or not ready
            continue
    (calls,) = found
    assert calls["metric"]["outcome"] == "OK"  # type: ignore[index]
    assert calls["value"][1] == "5"  # type: ignore[index]
    (up,) = ask("up")
    assert up["value"][1] == "1"  # type: ignore[index]
    (p99,) = ask("histogram_quantile(0.99,gradwire_call_duration_seconds_bucket)")
    assert 0 < float(p99["value"][1]) < 30  # type: ignore[index]
    with urllib.request.urlopen(f"http://{prometheus}/api/v1/metadata", timeout=10) as answer:
        told = json.load(answer)["data"]
    for described in METRICS:
        # In the format that Prometheus asks for, a counter's samples end in _total and its name does not.
        about = told[described.name.removesuffix("_total")][0]
        assert (about["type"], about["help"]) == (described.kind, described.text)
