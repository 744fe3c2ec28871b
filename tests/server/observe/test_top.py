"""``gradwire top`` against running servers: its numbers, access to them, and the end of a server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import environment, gradwire
from google.protobuf.timestamp_pb2 import Timestamp
from processes import server_process
from rich.console import Console
from typer.testing import CliRunner

from gradwire.client import connect
from gradwire.client.top.activity import Activity, activity, quantile
from gradwire.client.top.table import shown
from gradwire.server import serving
from gradwire.server.commands.token import app
from gradwire.v1 import status_pb2 as pb
from models import cnn

X = np.zeros((2, 1, 8, 8), np.float32)
CNN = {"backend": "torch", "factory": cnn, "loss": "torch.nn.CrossEntropyLoss", "input_shape": [1, 8, 8], "nb_classes": 5}
SUMS = {"name": "sums", "backend": "blackbox", "factory": "owners:sums", "input_shape": [4], "nb_classes": 2}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server that has computed something."""
    with serving({"digits": CNN, "digits-labels": {"same_as": "digits", "access": "labels"}}) as address:
        with connect(address) as server:
            for _ in range(4):
                server.estimator("digits").predict(X)
            server.estimator("digits-labels").predict(X)
        yield address


def test_one_reading_tells_what_happened_since_the_start(address: str) -> None:
    ended = gradwire("top", address, "--once", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    digits, labels = told["models"]
    (predict,) = digits["operations"]
    assert (digits["name"], digits["version"], digits["device"], digits["waiting"]) == ("digits", "initial", "cpu", 0)
    assert (predict["operation"], predict["calls"], predict["forward"], predict["failed"]) == ("predict", 4, 8, {})
    assert 0 < predict["p50_s"] <= predict["p99_s"] < 30
    assert predict["batch_rows"] == 2
    assert (labels["name"], labels["operations"][0]["calls"]) == ("digits-labels", 1)
    assert told["received_nbytes"] > 5 * X.nbytes
    assert told["devices"][0]["memory_nbytes"]["used"] > 1 << 20
    assert told["period_s"] == told["up_s"] > 0


def test_the_table_names_every_model(address: str) -> None:
    ended = gradwire("top", address, "--once")
    assert ended.returncode == 0, ended.stderr
    for word in ("digits", "digits-labels", "predict", "p99 ms", "streams", "total"):
        assert word in ended.stdout


def test_periods_tell_what_happened_in_each(address: str) -> None:
    command = [sys.executable, "-m", "gradwire.client.cli", "top", address, "--json", "--every", "0.3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    try:
        periods = [json.loads(process.stdout.readline())]
        with connect(address) as server:
            server.estimator("digits").predict(X)
        while not (calls := sum(its["models"][0]["operations"][0]["calls"] for its in periods)):
            assert len(periods) < 50, "the call is in no period"
            periods.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert calls == 1
    assert all(0.2 < its["period_s"] < 30 for its in periods)
    assert process.returncode == 0


def test_admins_and_nobody_else_see_a_server_that_knows_its_callers(tmp_path: Path) -> None:
    made = {name: CliRunner().invoke(app, ["new", name, "--file", str(tmp_path / "tokens.yaml")]) for name in ("root", "alice")}
    tokens = {name: ended.stdout.strip() for name, ended in made.items()}
    identity = {"tokens": "tokens.yaml", "admins": ["root"]}
    with server_process(tmp_path, [SUMS], identity=identity) as server:
        of_admin = gradwire("top", server.address, "--once", GRADWIRE_TOKEN=tokens["root"])
        of_alice = gradwire("top", server.address, "--once", GRADWIRE_TOKEN=tokens["alice"])
        of_nobody = gradwire("top", server.address, "--once")
    assert of_admin.returncode == 0, of_admin.stderr
    assert "not called yet" in of_admin.stdout
    assert of_alice.returncode != 0
    assert "'alice' is not an admin" in of_alice.stderr
    assert of_nobody.returncode != 0
    assert "sums" not in of_alice.stdout + of_nobody.stdout


def test_no_server_ends_the_command_with_its_own_code(free_port: int) -> None:
    ended = gradwire("top", f"127.0.0.1:{free_port}", "--once", "--timeout", "2")
    assert ended.returncode == 3, ended.stderr


@pytest.mark.parametrize(
    ("counts", "part", "expected"),
    [
        ((0, 0, 0), 0.5, None),
        ((10, 0, 0), 0.5, 0.5),
        ((0, 10, 0), 0.5, 1.5),
        ((5, 5, 0), 0.5, 1.0),
        ((1, 98, 1), 0.99, 2.0),
        ((0, 0, 7), 0.5, 2.0),
    ],
)
def test_quantiles_lie_in_proportion_in_their_buckets(counts: tuple[int, ...], part: float, expected: float | None) -> None:
    assert quantile((1.0, 2.0), counts, part) == expected


def reading(started_s: int, now_s: int, calls: int, lost: int = 0) -> pb.GetStatusResponse:
    seconds = pb.Histogram(bounds=[1.0], counts=[calls, 0], total=calls / 2)
    operation = pb.OperationStatus(operation="predict", outcomes={"OK": calls, "BAD_SHAPE": calls}, forward=calls, seconds=seconds)
    return pb.GetStatusResponse(
        server="host:1",
        started=Timestamp(seconds=started_s),
        now=Timestamp(seconds=now_s),
        ledger_lost_calls=lost,
        refusing="it hangs [bold]" if lost else "",
        devices=[pb.DeviceStatus(device="cuda:0", uuid="GPU-1", memory_bytes={"used": 3 << 30}, utilization=0.5)],
        models=[pb.ModelStatus(name="digits", queue="digits", operations=[operation])],
    )


def test_a_server_that_was_started_anew_is_counted_from_its_start() -> None:
    before, after = reading(0, 100, 50), reading(200, 210, 3)
    assert activity(after, before) == activity(after)
    (operation,) = activity(reading(0, 110, 60), before).models[0].operations
    assert (operation.calls, operation.failed, operation.forward) == (20, {"BAD_SHAPE": 10}, 10)
    assert activity(reading(0, 110, 60), before).period_s == 10


def text(seen: Activity) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(shown(seen))
    return console.export_text()


def test_what_is_wrong_stands_out() -> None:
    told = text(activity(reading(0, 110, 60, lost=4)))
    assert "4 lost" in told
    assert "accepts no calls: it hangs [bold]" in told
    assert "60 BAD_SHAPE" in told
    assert "cuda:0: 3.0 GiB used, busy 50%" in told
