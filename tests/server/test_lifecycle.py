"""A server process from its start to its end: health, drain, death, callers that go away."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from processes import server_process

from gradwire.client import Retry, connect
from gradwire.client.errors import CallTimeout, GradwireError, QueueFull, ServerError, Unavailable
from gradwire.v1 import estimator_pb2 as pb
from gradwire.wire.frames import messages, open_field

pytestmark = pytest.mark.usefixtures("transport")

ONCE = Retry(attempts=1)


def blackbox(name: str, factory: str, **args: Any) -> dict[str, Any]:
    made_by = {"path": f"owners:{factory}", "args": args}
    return {"name": name, "backend": "blackbox", "factory": made_by, "input_shape": [4], "nb_classes": 2}


def in_thread(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(function())
        except Exception as e:
            result.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, result


def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come to be"
        time.sleep(0.02)


def blocks(log: Path) -> list[int]:
    """The sizes of the blocks that a slow model has begun."""
    return [int(line) for line in log.read_text().split()] if log.exists() else []


X = np.ones((1, 4), np.float32)


def test_health_is_told_for_the_whole_and_for_each_model(tmp_path: Path) -> None:
    with server_process(tmp_path, [blackbox("one", "sums"), blackbox("two", "sums")]) as server:
        with grpc.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", "gradwire.v1.EstimatorService", "one", "two"):
                reply = health.Check(health_pb2.HealthCheckRequest(service=name))
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as caught:
                health.Check(health_pb2.HealthCheckRequest(service="three"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services(tmp_path: Path) -> None:
    with server_process(tmp_path, [blackbox("m", "sums")]) as server, grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        reply = next(iter(stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))))
        names = {service.name for service in reply.list_services_response.service}
        assert {
            "gradwire.v1.EstimatorService",
            "gradwire.v1.ModelService",
            "gradwire.v1.UsageService",
            "grpc.health.v1.Health",
        } <= names


def test_drain_finishes_running_calls_refuses_new_ones_and_ends_with_0(tmp_path: Path) -> None:
    log = tmp_path / "blocks"
    model = blackbox("slow", "slow", seconds=1.0, log=str(log))
    with server_process(tmp_path, [model], drain_timeout_s=20) as server, connect(server.address, retry=ONCE) as connection:
        remote = connection.estimator("slow")
        other = connect(server.address, retry=ONCE)
        idle = other.estimator("slow")
        idle.predict(X)  # leaves an open stream without a call
        began = len(blocks(log))
        thread, result = in_thread(lambda: remote.predict(X))
        until(lambda: len(blocks(log)) > began)
        server.signal(signal.SIGTERM)
        until(lambda: "draining" in (tmp_path / "stderr.log").read_text())
        for late in (idle.predict, lambda _: other.models(), lambda _: connect(server.address, retry=ONCE).models()):
            with pytest.raises(Unavailable, match=server.address):
                late(X)
        thread.join()
        assert isinstance(result[0], np.ndarray), result[0]
        assert server.process.wait(20) == 0
        other.close()


def test_a_successor_may_listen_where_a_server_drains_and_takes_what_comes(tmp_path: Path, free_port: int) -> None:
    log = tmp_path / "blocks"
    slow, listen = blackbox("m", "slow", seconds=0.5, log=str(log)), f"127.0.0.1:{free_port}"
    (tmp_path / "successor").mkdir()
    with server_process(tmp_path, [slow], listen=listen) as server, connect(server.address) as connection:
        remote = connection.estimator("m")
        began = len(blocks(log))
        thread, result = in_thread(lambda: remote.predict(np.ones((18, 4), np.float32), batch_size=1))
        until(lambda: len(blocks(log)) > began)
        server.signal(signal.SIGTERM)
        until(lambda: "draining" in (tmp_path / "stderr.log").read_text())
        with server_process(tmp_path / "successor", [blackbox("m", "sums")], listen=listen):
            # The same connection, in the middle of a call to the one that drains.
            assert remote.predict(X).tolist() == [[4, -4]]
            assert not result
            thread.join()
            np.testing.assert_array_equal(result[0], np.full((18, 2), 0.5))
            assert server.process.wait(20) == 0
            assert remote.predict(X).tolist() == [[4, -4]]


def test_a_stream_that_was_busy_when_the_drain_began_is_ended_with_its_call(tmp_path: Path) -> None:
    log = tmp_path / "blocks"
    with server_process(tmp_path, [blackbox("slow", "slow", seconds=0.5, log=str(log))]) as server:
        with connect(server.address, retry=ONCE) as connection:
            stream, began = connection.connection.open_stream("Predict"), len(blocks(log))
            opened = open_field(pb.PredictOpen(call=pb.CallHeader(model="slow")).SerializeToString())
            stream.send(messages(opened, [("x", X)]))
            until(lambda: len(blocks(log)) > began)
            server.signal(signal.SIGTERM)
            assert len(pb.PredictResponse.FromString(bytes(stream.receive())).tensors) == 1
            stream.send(messages(opened, [("x", X)]))
            # The stream is found ended, or the connection gone with it.
            with pytest.raises((Unavailable, grpc.RpcError), match=r"ended the stream before it answered|UNAVAILABLE"):
                stream.receive()
        assert server.process.wait(20) == 0
        assert len(blocks(log)) == began + 1


def test_a_server_that_dies_in_the_middle_of_a_call_is_an_error_and_the_next_one_is_found(tmp_path: Path, free_port: int) -> None:
    models = [blackbox("m", "suicidal")]
    with server_process(tmp_path, models, listen=f"127.0.0.1:{free_port}") as server, connect(server.address) as connection:
        remote = connection.estimator("m")
        assert remote.predict(X).shape == (1, 2)
        began_s = time.monotonic()
        with pytest.raises(Unavailable, match=str(free_port)):
            remote.predict(-X)
        assert time.monotonic() - began_s < 2.0
        server.process.wait()
        with server_process(tmp_path, models, listen=f"127.0.0.1:{free_port}"):
            assert remote.predict(X).shape == (1, 2)


def test_kill_9_during_a_call_is_an_error_at_once(tmp_path: Path) -> None:
    log = tmp_path / "blocks"
    with server_process(tmp_path, [blackbox("slow", "slow", seconds=0.5, log=str(log))]) as server:
        remote = connect(server.address).estimator("slow")
        probed = len(blocks(log))
        thread, result = in_thread(lambda: remote.predict(np.ones((1000, 4), "f4"), batch_size=1))
        until(lambda: len(blocks(log)) > probed)
        server.signal(signal.SIGKILL)
        thread.join(5)
        assert isinstance(result[0], Unavailable)


def test_a_model_that_exits_ends_its_call_and_not_the_server(tmp_path: Path) -> None:
    with server_process(tmp_path, [blackbox("m", "exits")]) as server, connect(server.address) as connection:
        remote = connection.estimator("m")
        with pytest.raises(ServerError, match="SystemExit"):
            remote.predict(-X)
        assert remote.predict(X).shape == (1, 2)


def test_a_call_that_takes_too_long_is_ended_on_both_sides(tmp_path: Path) -> None:
    log = tmp_path / "blocks"
    model = blackbox("slow", "slow", seconds=0.2, log=str(log))
    with server_process(tmp_path, [model]) as server, connect(server.address, timeout_s=0.5) as connection:
        remote = connection.estimator("slow")
        began_s = time.monotonic()
        with pytest.raises(CallTimeout, match="0.5 s"):
            remote.predict(np.ones((100_000, 4), np.float32), batch_size=1)
        assert time.monotonic() - began_s < 2.0
        time.sleep(0.5)
        done = len(blocks(log))
        time.sleep(0.6)
        assert len(blocks(log)) <= done + 1
        assert remote.predict(X).shape == (1, 2)


def test_a_server_that_hangs_is_given_up_on(tmp_path: Path) -> None:
    with (
        server_process(tmp_path, [blackbox("m", "sums")]) as server,
        connect(server.address, timeout_s=0.5, retry=ONCE) as connection,
    ):
        remote = connection.estimator("m")
        remote.predict(X)
        server.signal(signal.SIGSTOP)
        began_s = time.monotonic()
        with pytest.raises(CallTimeout, match="0.5 s"):
            remote.predict(X)
        with pytest.raises(CallTimeout):
            connection.models()
        assert time.monotonic() - began_s < 4.0
        server.signal(signal.SIGCONT)
        assert remote.predict(X).shape == (1, 2)


CLIENT = """
import sys, numpy as np
from gradwire.client import connect
remote = connect(sys.argv[1]).estimator("slow")
print("ready", flush=True)
remote.predict(np.ones((100_000, 4), np.float32), batch_size=1)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_client_that_goes_away_leaves_no_work_behind(tmp_path: Path, number: int) -> None:
    log = tmp_path / "blocks"
    with server_process(tmp_path, [blackbox("slow", "slow", seconds=0.05, log=str(log))]) as server:
        client = subprocess.Popen([sys.executable, "-c", CLIENT, server.address], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        until(lambda: len(blocks(log)) > 5)
        client.send_signal(number)
        client.communicate(timeout=20)
        assert client.returncode != 0
        time.sleep(0.3)
        done = len(blocks(log))
        time.sleep(0.5)
        assert len(blocks(log)) <= done + 1
        with connect(server.address) as connection:
            assert connection.estimator("slow").predict(X).shape == (1, 2)


def test_a_full_queue_says_when_to_come_back_and_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "blocks"
    with server_process(tmp_path, [blackbox("slow", "slow", seconds=0.4, log=str(log))], limits={"max_calls": 1}) as server:
        patient = connect(server.address, retry=Retry(attempts=20)).estimator("slow")
        impatient = connect(server.address, retry=ONCE).estimator("slow")
        probed = len(blocks(log))
        thread, result = in_thread(lambda: patient.predict(X))
        until(lambda: len(blocks(log)) > probed)
        with pytest.raises(QueueFull) as caught:
            impatient.predict(X)
        assert caught.value.retry_after_s is not None
        assert patient.predict(X).shape == (1, 2)
        thread.join()
        assert result[0].shape == (1, 2)


def fit_model() -> dict[str, Any]:
    return {
        "name": "m", "backend": "torch", "factory": "torch_owners:SlowSteps", "loss": "torch.nn.CrossEntropyLoss",
        "optimizer": "torch.optim.Adam", "input_shape": [4], "nb_classes": 2, "access": "trainer",
    }  # fmt: skip


FIT_CLIENT = """
import sys, numpy as np
from gradwire.client import connect
remote = connect(sys.argv[1]).estimator("m")
remote.fit(np.ones((100, 4), np.float32), np.zeros(100, int), batch_size=10, nb_epochs=1000,
           on_progress=lambda progress: print(progress.epoch, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_fit_that_loses_its_client_leaves_the_model_as_it_was(tmp_path: Path, number: int) -> None:
    with server_process(tmp_path, [fit_model()]) as server, connect(server.address) as connection:
        remote = connection.estimator("m")
        before = remote.predict(X)
        client = subprocess.Popen(
            [sys.executable, "-c", FIT_CLIENT, server.address], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert client.stdout is not None
        client.stdout.readline()
        client.stdout.readline()
        client.send_signal(number)
        client.communicate(timeout=20)
        # Waits for the fit, which holds the model, to have been taken back.
        np.testing.assert_array_equal(remote.predict(X), before)
        assert remote.refresh().version == "initial"


def test_a_drain_takes_a_fit_back_that_does_not_end_in_time(tmp_path: Path) -> None:
    with server_process(tmp_path, [fit_model()], drain_timeout_s=0.5) as server, connect(server.address, retry=ONCE) as connection:
        remote = connection.estimator("m")
        begun = threading.Event()
        thread, result = in_thread(
            lambda: remote.fit(
                np.ones((100, 4), "f4"), np.zeros(100, int), batch_size=10, nb_epochs=1000, on_progress=lambda _: begun.set()
            )
        )
        assert begun.wait(10)
        server.signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        thread.join()
        assert isinstance(result[0], GradwireError), result


def test_a_million_rows_cost_the_server_a_few_blocks_of_memory(tmp_path: Path) -> None:
    model = {
        "name": "m", "backend": "torch", "factory": "torch_owners:linear", "loss": "torch.nn.CrossEntropyLoss", "input_shape": [64],
        "nb_classes": 10, "max_batch_rows": 4096,
    }  # fmt: skip
    with server_process(tmp_path, [model]) as server, connect(server.address) as connection:
        remote = connection.estimator("m")
        x = np.random.default_rng(0).random((1_000_000, 64), np.float32)
        y = np.arange(1_000_000) % 10
        sample = [0, 4095, 4096, 555_555, 999_999]
        remote.predict(x[:100])
        before = server.peak_bytes()
        outputs = remote.predict(x)
        np.testing.assert_allclose(outputs[sample], remote.predict(x[sample]), rtol=1e-5)
        gradient = remote.loss_gradient(x, y)
        np.testing.assert_allclose(gradient[sample] * 1e6, remote.loss_gradient(x[sample], y[sample]) * 5, rtol=1e-4)
        assert server.peak_bytes() - before < 150 << 20  # x alone has 256 MB


def test_two_gibibytes_go_through_in_chunks_or_are_refused_with_the_limits_name(tmp_path: Path) -> None:
    wide = {**blackbox("wide", "sums"), "input_shape": [1 << 16], "max_batch_rows": 64}
    x = np.zeros((8193, 1 << 16), np.float32)
    x[::1000, 7] = 1.0
    with server_process(tmp_path, [wide]) as server, connect(server.address) as connection:
        before = server.peak_bytes()
        outputs = connection.estimator("wide").predict(x)
        np.testing.assert_array_equal(outputs[:, 0], x[:, 7])
        assert server.peak_bytes() - before < 300 << 20
    with server_process(tmp_path, [wide], limits={"max_tensor_bytes": 1 << 30}) as server, connect(server.address) as connection:
        with pytest.raises(ValueError, match="max_tensor_bytes"):
            connection.estimator("wide").predict(x)
