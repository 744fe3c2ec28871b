"""Watchdog: callers, health and the log learn of a model that hangs, and the process ends if configured."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import server_process
from torch import nn

from gradwire.client import Retry, Server, connect
from gradwire.client.errors import GradwireError, Unavailable
from gradwire.server import serving
from gradwire.v1.errors_pb2 import ERROR_REASON_HUNG

pytestmark = pytest.mark.usefixtures("transport")

ONCE = Retry(attempts=1)
X = np.ones((1, 4), np.float32)
HANGS = -X


class Sleeper(nn.Module):
    """Hangs for a while on rows that are negative."""

    hangs_s = 3.0

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> Any:
        if (x == -1).all():
            time.sleep(self.hangs_s)
        return self.head(x)


MODEL = {"backend": "torch", "factory": Sleeper, "input_shape": [4], "nb_classes": 2, "access": "trainer"}


def health(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        return int(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="m"), timeout=5).status)


def in_background(call: Any) -> tuple[threading.Thread, list[tuple[BaseException | None, float]]]:
    """Runs a call in a thread, which notes its error and when it ended."""
    ends: list[tuple[BaseException | None, float]] = []

    def run() -> None:
        try:
            call()
        except GradwireError as e:
            ends.append((e, time.monotonic()))
        else:
            ends.append((None, time.monotonic()))

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ends


def predict(server: Server, x: Any) -> Any:
    return server.estimator("m").predict(x)


def test_all_who_wait_are_told_at_once_and_served_again_when_the_model_comes_back() -> None:
    with serving({"m": MODEL}, watchdog_s=0.5, watchdog_exits=False) as address, connect(address, retry=ONCE) as server:
        remote = server.estimator("m")
        # The first of its kind: what has been quick is computed by the event loop, and while that hangs nobody gets an answer.
        began_s = time.monotonic()
        calls = [in_background(lambda: remote.predict(HANGS))]
        time.sleep(0.1)
        calls += [in_background(lambda: remote.predict(X)), in_background(lambda: remote.save("kept"))]
        for thread, _ in calls:
            thread.join()
        for _, [(error, ended_s)] in calls:
            assert isinstance(error, Unavailable)
            assert error.reason == ERROR_REASON_HUNG
            assert "'m' has been computing one batch of" in str(error)
            assert ended_s - began_s < 2.0
        assert health(address) == health_pb2.HealthCheckResponse.NOT_SERVING
        for call in (lambda: remote.predict(X), server.models):
            with pytest.raises(Unavailable, match="for more than 0.5 s"):
                call()
        time.sleep(max(0.0, began_s + Sleeper.hangs_s + 0.6 - time.monotonic()))
        assert health(address) == health_pb2.HealthCheckResponse.SERVING
        assert remote.predict(X).shape == (1, 2)
        assert remote.versions() == []


def test_the_process_ends_with_a_code_that_asks_to_be_started_again(tmp_path: Path) -> None:
    model = {"name": "m", "backend": "blackbox", "factory": {"path": "owners:hangs", "args": {"seconds": 60.0}},
             "input_shape": [4], "nb_classes": 2}  # fmt: skip
    with server_process(tmp_path, [model], watchdog_s=0.5) as process, connect(process.address, retry=ONCE) as server:
        with pytest.raises(Unavailable):
            predict(server, HANGS)
        assert process.process.wait(10) == 70
        log = process.log.read_text()
        assert "the model does not return" in log
        assert "model=m" in log
        assert "operation=predict" in log


def test_calls_that_end_in_time_are_none_of_its_business() -> None:
    with serving({"m": MODEL}, watchdog_s=0.2, watchdog_exits=False) as address, connect(address, retry=ONCE) as server:
        end_s = time.monotonic() + 1.5
        while time.monotonic() < end_s:
            predict(server, X)
        assert health(address) == health_pb2.HealthCheckResponse.SERVING
