"""Retries, their time limits, and the server's errors as callers see them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from owners import slow, sums

import models
from gradwire.client import Retry, Server, connect
from gradwire.client.errors import BudgetSpent, CallTimeout, InvalidCall, QueueFull, Unavailable
from gradwire.client.fit import fit_rows
from gradwire.server import serving
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1.errors_pb2 import ERROR_REASON_BUDGET_SPENT, ERROR_REASON_DRAINING
from gradwire.wire.frames import first_message, open_field
from gradwire.wire.status import Fault

pytestmark = pytest.mark.usefixtures("transport")

X = np.ones((3, 4), np.float32)
PATIENT = Retry(attempts=1000, first_delay_s=0.05, factor=1.0)


class Foreign:
    """A server that answers every stream with a status of ours, and counts the streams."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.streams = 0
        self._fault = fault

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._answer)

    def _answer(self, requests: Any, context: Any) -> Iterator[bytes]:
        self.streams += 1
        next(requests)
        if self._fault is not None:
            context.set_trailing_metadata(self._fault.metadata())
            context.abort(self._fault.code, self._fault.text)
        return iter(())

    def __enter__(self) -> Server:
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((self,))  # type: ignore[arg-type]
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        # It answers all that it is asked, where its socket is too.
        self._connection = connect(f"127.0.0.1:{port}", same_host=False, retry=Retry(attempts=3, first_delay_s=0.001))
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._server.stop(0).wait()


def test_calls_on_streams_that_the_server_is_ending_are_answered() -> None:
    model = {"backend": "blackbox", "factory": sums, "input_shape": [4], "nb_classes": 2}
    rng = np.random.default_rng(0)
    with serving({"m": model}, limits={"idle_timeout_s": 0.02}) as address, connect(address) as server:
        remote = server.estimator("m")
        for _ in range(150):
            assert remote.predict(X).shape == (3, 2)
            time.sleep(rng.uniform(0.018, 0.026))


def test_a_stream_that_ends_without_an_answer_is_not_used_again() -> None:
    foreign = Foreign()
    with foreign as server, pytest.raises(Unavailable, match="ended the stream before it answered") as caught:
        server.connection.call("Predict", b"", [("x", X)])
    assert caught.value.unseen
    assert foreign.streams == 3 + 3


class Ending:
    """A server that ends each stream at its second call; keeps the headers of all calls.

    Args:
        fault: What the streams end with; None: as if all had been said.
    """

    def __init__(self, fault: Fault | None = None) -> None:
        self.headers: list[pb.CallHeader] = []
        self._fault = fault

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._answer)

    def _answer(self, requests: Any, context: Any) -> Iterator[bytes]:
        self.headers.append(pb.PredictRequest.FromString(next(requests)).open.call)
        yield first_message(b"", [("outputs", X)])[0]
        self.headers.append(pb.PredictRequest.FromString(next(requests)).open.call)
        if self._fault is not None:
            context.set_trailing_metadata(self._fault.metadata())
            context.abort(self._fault.code, self._fault.text)


LEAVING = Fault(grpc.StatusCode.UNAVAILABLE, ERROR_REASON_DRAINING, "about to end", retry_after_s=60.0)


@pytest.mark.parametrize("fault", [None, LEAVING], ids=["idle or old", "draining"])
def test_a_call_that_comes_when_its_stream_has_ended_is_made_at_once_on_another_and_is_no_second_attempt(
    fault: Fault | None,
) -> None:
    ending = Ending(fault)
    backend = grpc.server(futures.ThreadPoolExecutor(4))
    backend.add_generic_rpc_handlers((ending,))  # type: ignore[arg-type]
    port = backend.add_insecure_port("127.0.0.1:0")
    backend.start()
    began_s = time.monotonic()
    with connect(f"127.0.0.1:{port}", same_host=False, retry=Retry(attempts=1, first_delay_s=60.0)) as server:
        for number in range(3):
            opened = pb.PredictOpen(call=pb.CallHeader(model="m", request_id=f"id-{number}"))
            server.connection.call("Predict", open_field(opened.SerializeToString()), [("x", X)])
    backend.stop(0).wait()
    assert time.monotonic() - began_s < 30
    # To the server it is one: who knows what a proxy in between has done.
    sent = [(header.request_id, header.attempt) for header in ending.headers]
    assert sent == [("id-0", 0), ("id-1", 0), ("id-1", 2), ("id-2", 0), ("id-2", 2)]


def test_servers_that_all_leave_are_asked_a_few_times_at_once_and_then_when_they_say() -> None:
    foreign = Foreign(replace(LEAVING, retry_after_s=0.2))
    began_s = time.monotonic()
    with foreign as server, pytest.raises(Unavailable, match="about to end") as caught:
        server.connection.call("Predict", b"", [("x", X)])
    assert caught.value.unseen
    assert caught.value.retry_after_s == 0.2
    assert 0.4 <= time.monotonic() - began_s < 5
    assert foreign.streams == 3 + 3


def test_a_fit_is_never_made_again() -> None:
    foreign = Foreign()
    with foreign as server, pytest.raises(Unavailable, match="before it answered"):
        fit_rows(server.connection, pb.FitOpen(), X, np.zeros(3), None, False)
    assert foreign.streams == 1


def test_what_the_server_says_of_an_error_reaches_the_caller() -> None:
    fault = Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, ERROR_REASON_BUDGET_SPENT, "no rows are left", quota="forward")
    with Foreign(fault) as server, pytest.raises(BudgetSpent, match="no rows are left") as caught:
        server.connection.call("Predict", b"", [("x", X)])
    assert caught.value.reason == ERROR_REASON_BUDGET_SPENT
    assert (caught.value.quota, caught.value.field) == ("forward", "")
    model = {"backend": "blackbox", "factory": sums, "input_shape": [4], "nb_classes": 2}
    with serving({"m": model}) as address, connect(address) as server:
        opened = pb.PredictOpen(call=pb.CallHeader(model="m"), options=pb.RowOptions(batch_size=-1))
        with pytest.raises(InvalidCall, match="batch_size") as refused:
            server.connection.call("Predict", open_field(opened.SerializeToString()), [("x", X)])
    assert refused.value.field == "open"


@pytest.fixture
def busy() -> Iterator[Any]:
    """Makes a server of one call at a time busy for some tenths of a second, and returns its address."""
    model = {"backend": "blackbox", "factory": lambda: slow(0.1), "input_shape": [4], "nb_classes": 2}
    threads: list[threading.Thread] = []

    def begin(tenths: int) -> str:
        rows = np.ones((tenths, 4), np.float32)
        threads.append(threading.Thread(target=lambda: other.predict(rows, batch_size=1)))
        threads[-1].start()
        time.sleep(0.1)
        return address

    with serving({"m": model}, limits={"max_calls": 1}) as address, connect(address) as connection:
        other = connection.estimator("m")
        yield begin
        for thread in threads:
            thread.join()


def test_a_call_has_one_time_for_all_its_attempts(busy: Any) -> None:
    with connect(busy(12), timeout_s=1.5, retry=PATIENT) as server:
        remote = server.estimator("m")
        began_s = time.monotonic()
        # The attempt that is taken gets what the refused ones have left.
        with pytest.raises(CallTimeout, match=r"its timeout of 0\.\d+ s|within 1.5 s"):
            remote.predict(np.ones((100, 4)), batch_size=1)
        assert 1.3 < time.monotonic() - began_s < 2.2


def test_there_is_no_attempt_after_a_calls_time(busy: Any, free_port: int) -> None:
    with connect(busy(20), timeout_s=0.5, retry=PATIENT) as server:
        remote = server.estimator("m")
        began_s = time.monotonic()
        with pytest.raises(QueueFull):
            remote.predict(X)
        assert time.monotonic() - began_s < 0.9
    with connect(f"127.0.0.1:{free_port}", timeout_s=0.5, retry=PATIENT) as nobody:
        began_s = time.monotonic()
        with pytest.raises((Unavailable, CallTimeout)):
            nobody.models()
        assert time.monotonic() - began_s < 0.9


def test_a_fit_prints_an_epoch_a_line_and_of_batches_a_line_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    model = {"backend": "torch", "factory": models.mlp, "loss": "torch.nn.CrossEntropyLoss", "optimizer": "torch.optim.SGD",
             "access": "trainer", "input_shape": [6], "nb_classes": 4}  # fmt: skip
    x, y = np.zeros((8, 6)), np.arange(8) % 4

    def batches() -> Iterator[Any]:
        for _ in range(30):
            time.sleep(0.05)
            yield x, y

    with serving({"m": model}) as address, connect(address) as server:
        remote = server.estimator("m")
        remote.fit(x, y, batch_size=4, nb_epochs=2, verbose=True)
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(",")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
        remote.fit_generator(batches(), nb_epochs=1, verbose=True)
        lines = capsys.readouterr().err.splitlines()
        assert 1 < len(lines) < 4
        assert all(line.startswith("batch ") and "loss" in line for line in lines)
