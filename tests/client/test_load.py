"""``gradwire bench``: figures that hold together, whatever the server does meanwhile."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import environment, gradwire
from owners import slow, sums
from processes import server_process
from torch import nn
from typer.testing import CliRunner

import models
from gradwire.client import RemoteEstimator, connect
from gradwire.client.cli import GROUP, build
from gradwire.client.errors import InvalidCall, NotGranted, ShapeError, TooLarge
from gradwire.client.load import Figures, Load, Progress, Report, Target, as_json, plan, run_load
from gradwire.client.load.calls import OPERATIONS, batches, granted
from gradwire.client.load.clients import Arrivals, Window
from gradwire.client.load.command import remarks
from gradwire.client.load.plan import Step
from gradwire.server import serving

CROSS_ENTROPY = "torch.nn.CrossEntropyLoss"
CNN = {"backend": "torch", "loss": CROSS_ENTROPY, "input_shape": [1, 8, 8], "nb_classes": 5, "clip_values": [0.25, 0.75]}
BLACK_BOX = {"backend": "blackbox", "input_shape": [4], "nb_classes": 2}


def failing(when: Callable[[int], bool]) -> Callable[[], Callable[[Any], Any]]:
    """Makes a factory of models that fail in the calls that ``when`` selects, but not during loading."""
    calls = iter(range(1 << 30))

    def predict(x: Any) -> Any:
        if x.any() and when(next(calls)):
            raise ValueError("the owner's model has a bad day")
        return np.full((len(x), 2), 0.5)

    return lambda: predict


def stalling(number: int, seconds: float) -> Callable[[], Callable[[Any], Any]]:
    """A factory of models that take their time once."""
    calls = iter(range(1 << 30))

    def predict(x: Any) -> Any:
        if next(calls) == number:
            time.sleep(seconds)
        return np.full((len(x), 2), 0.5)

    return lambda: predict


STUCK = """
import time

def stuck():
    def predict(x):
        time.sleep(60 if x.any() else 0)
        return [[0.5, 0.5]] * len(x)
    return predict
"""


class Means(nn.Module):
    """A thousand classes of images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1000)

    def forward(self, x: Any) -> Any:
        return self.head(x.flatten(1).mean(1, keepdim=True))


SERVED: dict[str, dict[str, Any]] = {
    "digits": {**CNN, "factory": models.cnn},
    "digits-labels": {"same_as": "digits", "access": "labels"},
    "sums": {**BLACK_BOX, "factory": sums},
    "words": {"backend": "torch", "factory": models.Embedded, "input_shape": [7], "input_dtype": "int64", "nb_classes": 3},
    "images": {"backend": "torch", "factory": Means, "input_shape": [3, -1, -1], "nb_classes": 1000},
    "failing": {**BLACK_BOX, "factory": failing(lambda number: True)},
    "half-failing": {**BLACK_BOX, "factory": failing(lambda number: bool(number % 2))},
    "slow": {**BLACK_BOX, "factory": lambda: slow(0.2)},
    "regression": {
        "backend": "torch",
        "factory": models.mlp,
        "loss": "torch.nn.MSELoss",
        "task": "regression",
        "input_shape": [6],
        "nb_classes": 4,
    },
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(SERVED) as address:
        yield address


def run(address: str, model: str = "sums", *operations: str, **settings: Any) -> Report:
    return run_load(plan(Target(address, model), operations, **{"duration_s": 0.3, "warmup_s": 0.1, "processes": 0, **settings}))


def check(of: Figures) -> None:
    """Checks properties of any figures."""
    assert of.failed == sum(failure.calls for failure in of.errors.values())
    assert of.calls_per_s * of.seconds == pytest.approx(of.calls)
    assert of.rows_per_s == pytest.approx(of.calls_per_s * of.rows)
    assert (of.p50_ms is None) == (of.calls == 0)
    if of.calls:
        assert 0 < of.p50_ms <= of.p90_ms <= of.p99_ms <= of.max_ms
        assert of.mean_ms <= of.max_ms <= of.seconds * 1e3 * 1.01


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_figures_hold_together(address: str, processes: int) -> None:
    report = run(address, "digits", "predict", "loss_gradient", rows=[1, 4], concurrency=[1, 3], processes=processes)
    expected = [(o, n, c) for o in ("predict", "loss_gradient") for n in (1, 4) for c in (1, 3)]
    assert [(of.operation, of.rows, of.concurrency) for of in report.figures] == expected
    for of in report.figures:
        check(of)
        assert of.calls > 0
        assert of.failed == of.unsent == 0
        assert of.weight is None
        assert (of.client_cores is None) == (processes == 0)
    assert not report.interrupted


@pytest.mark.parametrize("processes", [0, 2])
def test_the_server_has_computed_the_rows_that_are_reported(address: str, processes: int) -> None:
    with connect(address) as server:
        remote = server.estimator("sums")
        for warmup_s in (0.0, 0.3):
            before = remote.usage().forward
            report = run(address, "sums", "predict", rows=[3], concurrency=[3], warmup_s=warmup_s, processes=processes)
            used, reported = remote.usage().forward - before, 3 * report.figures[0].calls
            assert used == reported if warmup_s == 0 else used > reported


def test_everything_granted_is_measured_if_nothing_is_named(address: str) -> None:
    for model in ("digits", "digits-labels", "regression"):
        with connect(address) as server:
            card = server.card(model)
        report = run(address, model, duration_s=0.1)
        assert [of.operation for of in report.figures] == granted(card)
        assert {OPERATIONS[of.operation].granted_as for of in report.figures} == card.operations & {
            operation.granted_as for operation in OPERATIONS.values()
        }
        for of in report.figures:
            check(of)
            assert of.calls > 0, of
            assert of.failed == 0, of


def test_a_mix_is_called_in_its_proportions(address: str) -> None:
    report = run(address, "digits", mix={"predict": 3, "loss_gradient": 1}, concurrency=[4], processes=2, duration_s=1.0)
    predict, gradient = report.figures
    assert (predict.operation, predict.weight, gradient.operation, gradient.weight) == ("predict", 0.75, "loss_gradient", 0.25)
    assert predict.seconds == gradient.seconds
    assert 0.6 < predict.calls / (predict.calls + gradient.calls) < 0.9
    check(predict)
    check(gradient)


def test_a_call_that_is_slower_than_the_measurement_is_measured(address: str) -> None:
    report = run(address, "slow", duration_s=0.05, warmup_s=0.0, concurrency=[2])
    assert report.figures[0].calls == 2
    assert report.figures[0].p50_ms >= 200


# Failures.


def test_failures_are_counted_by_name_and_are_no_latencies(address: str) -> None:
    [of] = run(address, "half-failing", concurrency=[2], processes=2).figures
    check(of)
    assert of.calls > 0
    assert set(of.errors) == {"ModelFailed"}
    assert of.errors["ModelFailed"].calls == of.failed > 0
    assert "a bad day" in of.errors["ModelFailed"].text


def test_calls_that_a_full_server_refuses_are_failures_and_not_made_again() -> None:
    model = {**BLACK_BOX, "factory": lambda: slow(0.05)}
    with serving({"m": model}, limits={"max_calls": 1}) as address:
        [of] = run(address, "m", concurrency=[4], duration_s=0.5).figures
    assert of.calls > 0
    assert set(of.errors) == {"QueueFull"}
    assert of.max_ms < 1000 * 0.5  # no latency hides a second attempt's pause


def test_a_server_that_dies_is_a_failure_and_the_run_goes_on(tmp_path: Path) -> None:
    served = [{"name": "m", **BLACK_BOX, "factory": "owners:sums"}]
    with server_process(tmp_path, served) as server:
        load = plan(Target(server.address, "m"), rows=[1, 2], concurrency=[2], duration_s=1.0, warmup_s=0.0, processes=2)

        def kill(progress: Progress) -> None:
            if progress.calls > 100 and server.process.poll() is None:
                server.process.kill()

        first, second = run_load(load, kill).figures
    assert first.calls > 0
    assert set(first.errors) == set(second.errors) == {"Unavailable"}
    assert second.calls == 0
    # A dead server answers "refused" at once, and clients do not ask it as fast as they can.
    assert second.failed < 2 * 1.0 / 0.02 + 2


def test_of_a_run_that_is_stopped_the_rest_is_left_out(address: str) -> None:
    load = plan(Target(address, "sums"), rows=[1, 2, 3], duration_s=30.0, warmup_s=0.0, processes=1)
    stop = threading.Event()
    report = run_load(load, lambda progress: stop.set() if progress.calls > 10 else None, stop)
    assert report.interrupted
    [of] = report.figures
    check(of)
    assert of.calls > 10
    assert of.seconds < 20


def test_a_run_that_is_stopped_does_not_wait_for_calls_that_take_long(tmp_path: Path) -> None:
    (tmp_path / "stuck_owner.py").write_text(STUCK)
    with server_process(tmp_path, [{"name": "m", **BLACK_BOX, "factory": "stuck_owner:stuck"}]) as server:
        load = plan(Target(server.address, "m"), duration_s=30.0, warmup_s=0.0)
        stop = threading.Event()
        threading.Timer(1.0, stop.set).start()
        begin = time.monotonic()
        report = run_load(load, stop=stop)
        assert time.monotonic() - begin < 25
    assert report.interrupted
    assert report.figures == ()


# The open loop.


def test_an_open_loop_makes_the_calls_that_are_due(address: str) -> None:
    [of] = run(address, "sums", concurrency=[4], processes=2, rate_per_s=100.0, duration_s=1.0).figures
    check(of)
    assert of.failed == 0
    assert of.calls + of.unsent == pytest.approx(100, abs=2)


def test_a_stall_counts_for_every_call_that_was_due_meanwhile() -> None:
    """Coordinated omission: a closed loop has one slow call, and all its percentiles but the last are fine."""
    measured = {}
    for name, rate_per_s in (("closed", None), ("open", 50.0)):
        with serving({"m": {**BLACK_BOX, "factory": stalling(40, 1.0)}}) as address:
            [measured[name]] = run(address, "m", duration_s=2.0, warmup_s=0.0, rate_per_s=rate_per_s).figures
        check(measured[name])
        assert measured[name].max_ms >= 900
    assert measured["closed"].p99_ms < 500
    assert measured["open"].p90_ms > 500


def test_calls_that_no_client_was_free_for_are_told(address: str) -> None:
    [of] = run(address, "slow", rate_per_s=50.0, duration_s=1.0, warmup_s=0.3).figures
    check(of)
    assert of.unsent > 30
    assert of.calls + of.unsent == pytest.approx(50, abs=1)
    assert of.max_ms > 400


def test_arrivals_of_all_processes_are_evenly_spread_and_a_late_warm_up_is_not_made_up_for() -> None:
    now_s = time.perf_counter()
    window = Window(now_s - 1.0, now_s - 0.5, now_s + 60.0)
    first, second = (Arrivals(window, 0.02, offset_s) for offset_s in (0.005, 0.015))
    due_s = [arrivals.take() for _ in range(3) for arrivals in (first, second)]
    assert np.diff(due_s) == pytest.approx(0.01, abs=1e-6)
    assert due_s[0] == pytest.approx(window.warm_s + 0.005, abs=1e-6)
    assert first.unsent(window.warm_s + 0.1) == 2  # of five
    over = Arrivals(Window(now_s - 2.0, now_s - 1.5, now_s - 1.0), 0.1, 0.05)
    assert over.take() is None
    assert over.unsent(now_s) == 5


# What is asked for.


def inputs_of(address: str, model: str, **settings: Any) -> Load:
    return plan(Target(address, model), **settings)


def test_rows_stay_within_the_clip_values_and_have_the_cards_form(address: str) -> None:
    pool = batches(6, inputs_of(address, "digits").inputs, np.random.default_rng(0))
    assert len(pool) > 1
    for batch in pool:
        assert batch.x.shape == (6, 1, 8, 8)
        assert batch.x.dtype == np.float32
        assert batch.x.min() >= 0.25
        assert batch.x.max() <= 0.75
        assert set(batch.label) <= set(range(5))
    assert not np.array_equal(pool[0].x, pool[1].x)


def test_a_model_of_integers_gets_integers(address: str) -> None:
    [batch, *_] = batches(50, inputs_of(address, "words").inputs, np.random.default_rng(0))
    assert batch.x.dtype == np.int64
    assert set(np.unique(batch.x)) == {0, 1}
    report = run(address, "words")
    assert report.input_dtype == "int64"
    assert all(of.calls and not of.failed for of in report.figures), report.figures


def test_a_model_of_any_size_needs_a_shape(address: str) -> None:
    with pytest.raises(InvalidCall, match=r"\(3, -1, -1\)"):
        inputs_of(address, "images")
    with pytest.raises(ShapeError, match="takes"):
        inputs_of(address, "images", shape=(1, 5, 5))
    report = run(address, "images", "predict", "class_gradient:label", shape=(3, 5, 6))
    assert report.input_shape == (3, 5, 6)
    assert all(of.calls and not of.failed for of in report.figures), report.figures


def test_huge_answers_are_measured_only_if_they_are_asked_for(address: str) -> None:
    left = plan(Target(address, "images"), rows=[1, 8], shape=(3, 64, 64))
    assert Step((("class_gradient", 1.0),), 1, 1) in left.steps
    assert Step((("class_gradient", 1.0),), 8, 1) not in left.steps
    assert ["class_gradient of 8 rows" in text for text in left.left_out] == [True]
    named = plan(Target(address, "images"), ["class_gradient"], rows=[8], shape=(3, 64, 64))
    assert len(named.steps) == 1
    assert not named.left_out


def test_large_rows_leave_fewer_different_batches(address: str) -> None:
    inputs = replace(inputs_of(address, "digits").inputs, shape=(1, 8, 8))
    assert len(batches(1 << 17, inputs, np.random.default_rng(0))) == 2


def test_what_the_card_does_not_grant_is_refused_before_anything_runs(address: str) -> None:
    with pytest.raises(NotGranted, match="it offers: predict"):
        plan(Target(address, "digits-labels"), ["loss_gradient"])
    with pytest.raises(TooLarge, match="max_tensor_bytes"):
        plan(Target(address, "digits"), rows=[1 << 30])


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(Target("127.0.0.1:1", "m", token="secret"))


# JSON.


def test_the_json_holds_every_field(address: str) -> None:
    report = run(address, "half-failing", concurrency=[2])
    content = json.loads(as_json(report))
    assert set(content) == {field.name for field in fields(Report)} | {"format", "client"}
    assert content["format"] == 1
    assert content["model"] == "half-failing"
    assert set(content["client"]) == {"gradwire", "numpy", "grpcio", "protobuf", "python", "system", "cores"}
    [of] = content["figures"]
    assert set(of) == {field.name for field in fields(Figures)}
    assert of["errors"]["ModelFailed"]["calls"] == of["failed"]
    assert of["p99_ms"] == report.figures[0].p99_ms


def test_what_was_not_measured_is_null_and_not_nan(address: str) -> None:
    content = json.loads(as_json(run(address, "failing")))
    assert content["figures"][0]["p50_ms"] is None
    assert content["figures"][0]["rows_per_s"] == 0


# The command.

QUICK = ("--duration", "0.3", "--warmup", "0.1")


def test_the_command_shows_a_table_and_writes_json(address: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    ended = gradwire("bench", address, "digits", "-o", "predict", "-n", "1", "-n", "8", "-c", "2", *QUICK, "--json", str(file))
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    title, headings, *table = ended.stdout.splitlines()
    assert f"digits at {address}: 2 clients in 2 processes" in title or os.cpu_count() == 1
    assert headings.split() == ["operation", "rows", "calls", "p50", "p90", "p99", "max", "calls/s", "rows/s"]
    content = json.loads(file.read_text())
    shown = [line.split() for line in table]
    assert [(line[0], int(line[1]), int(line[2].replace(",", ""))) for line in shown] == [
        (of["operation"], of["rows"], of["calls"]) for of in content["figures"]
    ]


def test_json_on_stdout_is_alone_there(address: str) -> None:
    ended = gradwire("bench", address, "digits", "-o", "vjp", "-c", "1", "-c", "2", *QUICK, "--json", "-")
    assert ended.returncode == 0, ended.stderr
    assert [of["concurrency"] for of in json.loads(ended.stdout)["figures"]] == [1, 2]
    assert "clients" in ended.stderr


def test_a_table_of_everything_fits_a_terminal(address: str) -> None:
    ended = gradwire("bench", address, "digits", "-n", "32", "-d", "0.1", "--warmup", "0.1", COLUMNS="80")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert len(lines) == 2 + len(OPERATIONS)
    assert all(len(line) <= 80 for line in lines[1:])


def test_an_operation_of_which_all_calls_fail_is_named_and_1(address: str) -> None:
    ended = gradwire("bench", address, "failing", *QUICK)
    assert ended.returncode == 1
    assert "ModelFailed" in ended.stdout
    assert "a bad day" in ended.stdout


def test_a_mix_and_a_rate_that_is_too_high_are_told(address: str) -> None:
    ended = gradwire("bench", address, "slow", "--mix", "predict=2", "--rate", "50", "-d", "0.5", "--warmup", "0")
    assert ended.returncode == 0, ended.stderr
    assert "50 calls/s due" in ended.stdout
    assert "no client was free" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-o", "predct"), "'predct' is unknown; expected one of: predict, loss"),
        (("-o", "fit"), "expected one of"),
        (("--mix", "predict=x"), "as in predict=9"),
        (("--mix", "predict=1,predict=2"), "each operation once"),
        (("--mix", "predict=-1"), "greater than 0"),
        (("--mix", "predict", "-o", "predict"), "pass one of them"),
        (("-n", "0"), "rows is 0"),
        (("-c", "0"), "concurrency is 0"),
        (("-d", "0"), "duration_s is 0"),
        (("--warmup", "-1"), "warmup_s is -1"),
        (("--rate", "0"), "rate_per_s is 0"),
        (("--processes", "-1"), "processes is -1"),
        (("--shape", "3by4"), "as in 3,224,224"),
        (("--shape", "3x4"), "takes (n, 1, 8, 8)"),
        (("--json", "nowhere/figures.json"), "an existing folder"),
        (("--timeout", "0"), "timeout_s is 0"),
        (("--tls", "nowhere.pem"), "nowhere.pem"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_2(address: str, arguments: tuple[str, ...], text: str) -> None:
    points = [point for point in entry_points(group=GROUP) if point.name in ("bench", "models")]
    ended = CliRunner().invoke(build(points), ["bench", address, "digits", *arguments])
    assert ended.exit_code == 2
    assert text in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_help_shows_how_it_is_used() -> None:
    ended = gradwire("bench", "--help", COLUMNS="80")
    assert ended.returncode == 0, ended.stderr
    assert "Usage: gradwire bench" in ended.stdout
    assert "gradwire bench 127.0.0.1:50051 digits" in ended.stdout
    assert "--mix predict=9,loss_gradient=1" in ended.stdout


def test_what_a_reader_must_know_of_the_figures_is_said_below_them(address: str) -> None:
    report = run(address, "sums", processes=1)
    assert list(remarks(replace(report, figures=tuple(replace(of, client_cores=0.1) for of in report.figures)))) == []
    busy = replace(report, figures=tuple(replace(of, client_cores=0.97) for of in report.figures), left_out=("this and that",))
    left_out, limit = remarks(busy)
    assert left_out == "left out: this and that"
    assert "used 0.97 cores: the clients may limit the figures" in limit


def test_no_model_is_2_and_no_server_3(address: str) -> None:
    ended = gradwire("bench", address, "nonsense")
    assert ended.returncode == 2
    assert "there are: " in ended.stderr
    ended = gradwire("bench", "127.0.0.1:1", "digits")
    assert ended.returncode == 3
    assert "no gradwire server answers at 127.0.0.1:1" in ended.stderr


# The command, stopped early.


def children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(holds: Callable[[], bool], seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


@pytest.fixture
def long_bench(address: str) -> Iterator[subprocess.Popen[str]]:
    """The command, in a group of its own as a terminal starts it, in the middle of a long measurement."""
    command = [sys.executable, "-m", "gradwire.client.cli", "bench", address, "sums", "-d", "60", "--warmup", "0", "-c", "2"]
    with connect(address) as server:
        remote: RemoteEstimator = server.estimator("sums")
        before = remote.usage().forward
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        arguments = [*command, "--processes", "2", "--json", "-"]
        process = subprocess.Popen(arguments, **pipes, text=True, env=environment(), start_new_session=True)
        try:
            assert eventually(lambda: remote.usage().forward > before + 100)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


def test_ctrl_c_shows_what_was_measured_and_leaves_no_process(long_bench: subprocess.Popen[str]) -> None:
    workers = children(long_bench.pid)
    assert len(workers) >= 2
    os.killpg(long_bench.pid, signal.SIGINT)
    out, err = long_bench.communicate(timeout=30)
    assert long_bench.returncode == 0, err
    assert "Traceback" not in err
    assert "stopped early" in err
    content = json.loads(out)
    assert content["interrupted"] is True
    assert content["figures"][0]["calls"] > 0
    assert content["figures"][0]["seconds"] < 40
    assert eventually(lambda: not any(alive(worker) for worker in workers))


def test_processes_of_clients_end_with_the_command_however_it_ends(long_bench: subprocess.Popen[str]) -> None:
    workers = children(long_bench.pid)
    assert len(workers) >= 2
    long_bench.kill()
    assert eventually(lambda: not any(alive(worker) for worker in workers))


def test_a_bar_on_the_terminal_says_what_is_measured(address: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "gradwire.client.cli", "bench", address, "sums", *QUICK, "-n", "7", "-d", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment(TERM="xterm"))
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 1 << 16):
            shown += data
    except OSError:  # what Linux says at the end
        pass
    finally:
        os.close(ours)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"predict, 7 rows, 1 client" in shown
    assert b"calls/s" in shown
    assert out.splitlines()[0].startswith("sums at")
