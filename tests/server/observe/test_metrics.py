"""Metrics of running servers, compared with the calls made."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from typer.testing import CliRunner

from gradwire.backends.backend import DeviceReading
from gradwire.client import Retry, connect
from gradwire.client.errors import GradwireError, InvalidCall, Unauthenticated, UnknownModel
from gradwire.client.estimator import RemoteEstimator
from gradwire.server import serving
from gradwire.server.commands.token import app
from gradwire.server.errors import ConfigError
from gradwire.server.observe.collector import METRICS
from gradwire.server.observe.device_readings import read_devices
from gradwire.server.telemetry.counts import REFUSED, SECONDS_BOUNDS, UNKNOWN
from gradwire.server.trust.grants.grant import Budget, Grant
from gradwire.v1.estimator_pb2 import CallHeader, PredictOpen
from gradwire.wire.frames import open_field
from models import mlp

DIGITS = {
    "backend": "torch",
    "factory": mlp,
    "loss": "torch.nn.CrossEntropyLoss",
    "input_shape": [6],
    "nb_classes": 4,
    "access": "trainer",
}
X = np.linspace(-1, 1, 18).reshape(3, 6)
DOCUMENT = Path(__file__).parents[3] / "docs/observation.md"


def labels(**values):
    return frozenset(values.items())


def opening(model):
    """The beginning of a call that the client would not make, because it knows the model's card."""
    return open_field(PredictOpen(call=CallHeader(model=model)).SerializeToString())


def test_every_call_is_counted_by_outcome_rows_and_duration(scrape, free_port):
    with serving({"digits": DIGITS}, metrics_listen=f"127.0.0.1:{free_port}") as address, connect(address) as server:
        digits = server.estimator("digits")
        for _ in range(3):
            digits.predict(X)
        digits.loss_gradient(X, np.array([0, 1, 2]))
        with pytest.raises(InvalidCall):
            server.connection.call("Predict", opening("digits"), [("x", np.ones((2, 5)))])
        seen = scrape(free_port)
    calls = seen["gradwire_calls_total"]
    assert calls[labels(model="digits", operation="predict", outcome="OK")] == 3
    assert calls[labels(model="digits", operation="predict", outcome="BAD_SHAPE")] == 1
    rows = seen["gradwire_rows_total"]
    assert rows[labels(model="digits", operation="predict", direction="forward")] == 9
    assert rows[labels(model="digits", operation="loss_gradient", direction="backward")] == 3
    assert seen["gradwire_call_duration_seconds_count"][labels(model="digits", operation="predict")] == 4
    assert 0 < seen["gradwire_call_duration_seconds_sum"][labels(model="digits", operation="predict")] < 30
    assert seen["gradwire_batches_total"][labels(model="digits", operation="predict")] == 3
    assert seen["gradwire_batch_rows_bucket"][labels(model="digits", operation="predict", le="2.0")] == 0
    assert seen["gradwire_batch_rows_bucket"][labels(model="digits", operation="predict", le="4.0")] == 3
    assert seen["gradwire_queue_wait_seconds_count"][labels(model="digits")] == 4
    assert seen["gradwire_queue_calls"][labels(model="digits")] == 0
    assert seen["gradwire_received_bytes_total"][labels()] > 4 * X.nbytes
    assert seen["gradwire_sent_bytes_total"][labels()] > 3 * 3 * 4 * 8
    assert seen["gradwire_device_memory_bytes"][labels(device="cpu", kind="used")] > 1 << 20
    assert seen["gradwire_ledger_lost_calls_total"][labels()] == 0
    (info,) = seen["gradwire_model_info"]
    assert dict(info) == {"model": "digits", "version": "initial", "backend": "torch", "device": "cpu", "device_uuid": ""}


def test_names_that_callers_make_up_and_clones_make_no_labels(scrape, free_port):
    with serving({"digits": DIGITS}, metrics_listen=f"127.0.0.1:{free_port}") as address, connect(address) as server:
        digits = server.estimator("digits")
        for index in range(30):
            made_up = RemoteEstimator(server, dataclasses.replace(digits.card, name=f"made-up-{index}"))
            with pytest.raises(UnknownModel):
                made_up.predict(X)
        for _ in range(3):
            clone = digits.clone_for_refitting()
            clone.predict(X)
            clone.delete()
        seen = scrape(free_port)
    models = {dict(key)["model"] for samples in seen.values() for key in samples if "model" in dict(key)}
    assert models == {"digits", UNKNOWN}
    assert {dict(key)["operation"] for key in seen["gradwire_calls_total"]} == {"predict", "clone", "delete_clone", REFUSED}
    assert seen["gradwire_calls_total"][labels(model=UNKNOWN, operation="predict", outcome="UNKNOWN_MODEL")] == 30
    assert seen["gradwire_calls_total"][labels(model="digits", operation="predict", outcome="OK")] == 3
    assert seen["gradwire_batches_total"][labels(model="digits", operation="predict")] == 3


def test_calls_that_wait_for_the_device_are_in_the_queue(scrape, free_port):
    entered, loaded, go = threading.Semaphore(0), threading.Event(), threading.Event()

    def slow(x):
        if loaded.is_set():
            entered.release()
            go.wait(30)
        return x[:, :2]

    model = {"backend": "blackbox", "factory": lambda: slow, "input_shape": [6], "nb_classes": 2}
    with serving({"slow": model}, metrics_listen=f"127.0.0.1:{free_port}") as address:
        connections = [connect(address, timeout_s=60) for _ in range(3)]
        askers = [threading.Thread(target=lambda c=c: c.estimator("slow").predict(X)) for c in connections]
        loaded.set()
        try:
            for asker in askers:
                asker.start()
            assert entered.acquire(timeout=30)
            end_s = time.monotonic() + 30
            while (waiting := scrape(free_port)["gradwire_queue_calls"][labels(model="slow")]) != 2:
                assert time.monotonic() < end_s, f"{waiting} calls wait, expected 2"
                time.sleep(0.05)
        finally:
            go.set()
            for asker in askers:
                asker.join()
            for connection in connections:
                connection.close()
        seen = scrape(free_port)
    assert seen["gradwire_queue_calls"][labels(model="slow")] == 0
    assert seen["gradwire_queue_wait_seconds_count"][labels(model="slow")] == 3
    assert seen["gradwire_queue_wait_seconds_sum"][labels(model="slow")] > 0


@pytest.fixture
def budgeted(tmp_path):
    """Settings of a server whose anonymous callers have budgets."""
    window = Budget(forward=100, backward=50, window_s=3600, window_forward=20)
    grant = Grant(principal="anonymous", model="digits", access="gradients", budget=window)
    file = tmp_path / "grants.yaml"
    file.write_text(f"[{grant.model_dump_json(exclude_defaults=True)}]")
    return {"grants": str(file), "lease_rows": 7}


def test_what_is_left_of_budgets_is_exact_also_of_rows_that_are_leased(scrape, free_port, budgeted):
    with serving({"digits": DIGITS}, metrics_listen=f"127.0.0.1:{free_port}", **budgeted) as address, connect(address) as server:
        before = scrape(free_port)["gradwire_budget_left_rows"]
        server.estimator("digits").loss_gradient(X, np.array([0, 1, 2]))
        time.sleep(5.1)  # an answer of the store is good for five seconds
        after = scrape(free_port)["gradwire_budget_left_rows"]
    of = {"principal": "anonymous", "model": "digits"}
    assert before == {labels(**of, direction="forward"): 20, labels(**of, direction="backward"): 50}
    assert after == {labels(**of, direction="forward"): 17, labels(**of, direction="backward"): 47}


def test_principals_are_not_named_if_the_configuration_says_so(scrape, free_port, budgeted):
    settings = {"metrics_listen": f"127.0.0.1:{free_port}", "metrics_principals": False, **budgeted}
    with serving({"digits": DIGITS}, **settings) as address, connect(address) as server:
        server.estimator("digits").predict(X)
        seen = scrape(free_port)
    assert "gradwire_budget_left_rows" not in seen
    assert "anonymous" not in str(seen)
    assert seen["gradwire_calls_total"]


def test_metrics_are_told_while_the_event_loop_is_busy(scrape, free_port):
    """The listener has threads of its own: a server that hangs is seen to hang."""
    busy = threading.Event()

    def slow(x):
        busy.set()
        time.sleep(1.0)
        return x[:, :2]

    model = {"backend": "blackbox", "factory": lambda: slow, "input_shape": [6], "nb_classes": 2}
    with serving({"slow": model}, metrics_listen=f"127.0.0.1:{free_port}") as address, connect(address) as server:
        asker = threading.Thread(target=lambda: server.estimator("slow").predict(X))
        asker.start()
        assert busy.wait(30)
        assert scrape(free_port)["gradwire_open_streams"][labels()] == 1
        asker.join()


def test_an_address_that_is_taken_is_named(free_port):
    with serving({"digits": DIGITS}, metrics_listen=f"127.0.0.1:{free_port}"):
        with pytest.raises(ConfigError, match=f"metrics_listen: cannot listen on '127.0.0.1:{free_port}'"):
            with serving({"digits": DIGITS}, metrics_listen=f"127.0.0.1:{free_port}"):
                pass


@pytest.mark.parametrize("listen", ["9464", "unix:/tmp/metrics", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(listen):
    with pytest.raises(ConfigError, match="metrics_listen: .*is not host:port"):
        with serving({"digits": DIGITS}, metrics_listen=listen):
            pass


def test_without_the_key_nothing_is_listened_on_and_after_the_end_neither(free_port):
    with serving({"digits": DIGITS}, metrics_listen=f"127.0.0.1:{free_port}"):
        pass
    with serving({"digits": DIGITS}), pytest.raises(URLError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=5)


def test_the_document_lists_the_metrics_that_there_are():
    rows = re.findall(r"^\| `(gradwire_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", DOCUMENT.read_text(), re.MULTILINE)
    expected = [(its.name, its.kind, ", ".join(f"`{label}`" for label in its.labels), its.text) for its in METRICS]
    assert rows == expected


def test_bounds_of_durations_are_round_numbers():
    assert [f"{bound:g}" for bound in SECONDS_BOUNDS] == [repr(bound).removesuffix(".0") for bound in SECONDS_BOUNDS]


class OnGpu:
    """Reading of a GPU from a backend."""

    device, device_uuid = "cuda:1", "GPU-1"

    def device_reading(self):
        return DeviceReading({"used": 3, "total": 4}, 0.5)


class InTrouble(OnGpu):
    device = "cuda:2"

    def device_reading(self):
        raise RuntimeError("the driver has gone")


def test_a_device_is_read_once_and_one_that_does_not_answer_harms_no_other(caplog):
    host, gpu = read_devices([InTrouble(), OnGpu(), OnGpu()])
    assert host.name == "cpu"
    assert (gpu.name, gpu.uuid, gpu.reading) == ("cuda:1", "GPU-1", DeviceReading({"used": 3, "total": 4}, 0.5))
    assert "a device does not answer" in caplog.text


def test_a_server_that_refuses_is_still_watched(scrape, free_port):
    limits = {"max_rows": 2}
    with serving({"digits": DIGITS}, metrics_listen=f"127.0.0.1:{free_port}", limits=limits) as address:
        with connect(address, retry=Retry(attempts=1)) as server, pytest.raises(GradwireError):
            server.estimator("digits").predict(X)
        calls = scrape(free_port)["gradwire_calls_total"]
    nobody = labels(model=UNKNOWN, operation=REFUSED, outcome="UNAUTHENTICATED")
    assert calls == {labels(model="digits", operation="predict", outcome="TOO_LARGE"): 1, nobody: 0}


def test_calls_that_are_refused_before_they_are_read_are_counted(scrape, free_port, tmp_path):
    tokens = tmp_path / "tokens.yaml"
    made = CliRunner().invoke(app, ["new", "alice", "--file", str(tokens)])
    grants = tmp_path / "grants.yaml"
    grants.write_text("[{principal: alice, model: digits, access: scores}]")
    settings = {"identity": {"tokens": str(tokens)}, "grants": str(grants), "metrics_listen": f"127.0.0.1:{free_port}"}
    with serving({"digits": DIGITS}, **settings) as address:
        with connect(address) as nobody, pytest.raises(Unauthenticated):
            nobody.models()
        with connect(address, token=made.stdout.strip()) as alice, connect(address, retry=Retry(attempts=1)) as nobody:
            card = alice.estimator("digits").card
            with pytest.raises(Unauthenticated):
                RemoteEstimator(nobody, card).predict(X)
            with pytest.raises(UnknownModel):
                alice.estimator("nothing")
            calls = scrape(free_port)["gradwire_calls_total"]
    refused = {dict(key)["outcome"]: number for key, number in calls.items() if dict(key)["operation"] == REFUSED}
    # The client asks for the host's socket too, before it opens the stream.
    assert refused.pop("UNAUTHENTICATED") in (2, 3)
    assert refused == {"UNKNOWN_MODEL": 1}
