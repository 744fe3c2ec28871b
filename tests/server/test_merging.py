"""Calls of many clients computed as one: each gets what it would get alone, nobody waits long, and only culprits fail."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from defences import Rounded, Sine
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import models
from gradwire.backends.estimator import Estimator
from gradwire.backends.load import load
from gradwire.backends.torch import Config
from gradwire.client import RemoteEstimator, connect
from gradwire.client.errors import ModelFailed, OutOfMemory
from gradwire.server import serving
from gradwire.server.process import service
from gradwire.server.scheduling.merging import batch_key, compute
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.scheduling.work import Work
from gradwire.server.telemetry.batches import Batches

WEIGHTED = {"path": "torch.nn.CrossEntropyLoss", "args": {"weight": [1.0, 2.0, 3.0, 0.5]}}
MLP: dict[str, Any] = {"backend": "torch", "factory": "models:mlp", "loss": WEIGHTED, "input_shape": [6], "nb_classes": 4}


class Slow(nn.Module):
    """Takes its time, in which calls gather."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.004)
        return self.inner(x)


def slow_mlp() -> nn.Module:
    return Slow(models.mlp())


@pytest.fixture
def schedulers(monkeypatch: pytest.MonkeyPatch) -> list[Scheduler]:
    """Those of the servers that are started from now on."""
    made: list[Scheduler] = []

    class Kept(Scheduler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(service, "Scheduler", Kept)
    return made


def total(scheduler: Scheduler) -> Batches:
    """Batches that a server has computed, of all operations."""
    result = Batches()
    for of in scheduler.tally.of.values():
        result.batches += of.batches
        result.blocks += of.blocks
        result.rows += of.rows
    return result


Call = Callable[[RemoteEstimator], Any]


def some_calls(count: int, seed: int) -> list[Call]:
    """A mix of all operations on few rows, with labels of all forms; four in ten are loss gradients."""
    rng = np.random.default_rng(seed)
    calls: list[Call] = []
    for _ in range(count):
        rows = int(rng.integers(1, 6))
        x, y = rng.normal(size=(rows, 6)), rng.integers(0, 4, rows)
        soft = rng.dirichlet(np.ones(4), rows)
        calls.append(
            [
                lambda r, x=x: r.predict(x),
                lambda r, x=x, y=y: r.compute_loss(x, y),
                lambda r, x=x, y=y: r.compute_loss(x, y, reduction="mean"),
                lambda r, x=x, y=y: r.loss_gradient(x, y),
                lambda r, x=x, y=y: r.loss_gradient(x, y),
                lambda r, x=x, y=y: r.loss_gradient(x, y, batch_size=2),
                lambda r, x=x, y=soft: r.loss_gradient(x, y),
                lambda r, x=x: r.class_gradient(x),
                lambda r, x=x, y=y: r.class_gradient(x, y),
                lambda r, x=x: r.class_gradient(x, 2),
                lambda r, x=x: r.get_activations(x, "inner.1"),
                lambda r, x=x, y=soft: r.vjp(x, y),
            ][int(rng.integers(0, 12))]
        )
    return calls


@contextmanager
def clients(address: str, model: str, count: int) -> Iterator[list[RemoteEstimator]]:
    """Estimators with connections of their own."""
    servers = [connect(address) for _ in range(count)]
    try:
        yield [server.estimator(model) for server in servers]
    finally:
        for server in servers:
            server.close()


def at_once(remotes: list[RemoteEstimator], calls: list[Call]) -> list[Any]:
    """The answers to calls that the clients make as fast as they can, side by side."""
    with ThreadPoolExecutor(len(remotes)) as pool:

        def some(index: int) -> list[Any]:
            return [call(remotes[index]) for call in calls[index :: len(remotes)]]

        answers: list[Any] = [None] * len(calls)
        for index, answered in enumerate(pool.map(some, range(len(remotes)))):
            answers[index :: len(remotes)] = answered
        return answers


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("seed", [0, 1])
def test_each_of_many_clients_gets_what_it_would_get_alone(schedulers: list[Scheduler], seed: int) -> None:
    calls = some_calls(320, seed)
    with serving({"m": {**MLP, "factory": slow_mlp}}) as address, clients(address, "m", 16) as remotes:
        assert remotes[0].card.coalesce
        alone = [call(remotes[0]) for call in calls]
        before = total(schedulers[0])
        answers = at_once(remotes, calls)
        after = total(schedulers[0])
    for answer, expected in zip(answers, alone, strict=True):
        # float64, whose sums the framework may take in another order in a larger batch.
        np.testing.assert_allclose(answer, expected, rtol=1e-10, atol=1e-12)
    assert after.blocks - before.blocks > 1.5 * (after.batches - before.batches)


def test_float32_answers_are_those_of_a_call_alone_to_its_precision(schedulers: list[Scheduler]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((200, 1, 8, 8), np.float32), rng.integers(0, 5, 200)
    calls: list[Call] = [lambda r, i=i: r.loss_gradient(x[i : i + 2], y[i : i + 2]) for i in range(0, 200, 2)]
    model = {
        "backend": "torch",
        "factory": lambda: Slow(models.cnn()),
        "loss": "torch.nn.CrossEntropyLoss",
        "input_shape": [1, 8, 8],
        "nb_classes": 5,
        "preprocessing": {"mean": 0.5, "std": 0.25},
    }
    with serving({"m": model}) as address, clients(address, "m", 10) as remotes:
        alone = [call(remotes[0]) for call in calls]
        answers = at_once(remotes, calls)
    np.testing.assert_allclose(answers, alone, rtol=0, atol=1e-6)
    assert max(schedulers[0].tally.of[("m", "loss_gradient")].by_rows[2:]) > 0


def test_without_coalesce_answers_are_the_same_to_the_bit_whoever_else_calls(schedulers: list[Scheduler]) -> None:
    calls = some_calls(160, seed=2)
    with serving({"m": {**MLP, "factory": slow_mlp, "coalesce": False}}) as address, clients(address, "m", 8) as remotes:
        assert not remotes[0].card.coalesce
        alone = [call(remotes[0]) for call in calls]
        answers = at_once(remotes, calls)
    for answer, expected in zip(answers, alone, strict=True):
        np.testing.assert_array_equal(answer, expected)
    assert total(schedulers[0]).batches == total(schedulers[0]).blocks


def test_a_row_is_answered_after_three_batches_at_most_however_much_another_client_streams() -> None:
    seen: list[bool] = []

    class Marked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.03)
            seen.append(bool((x == 7).any()))
            return x[:, :2]

    model = {"backend": "torch", "factory": Marked, "input_shape": [6], "nb_classes": 2, "max_batch_rows": 8}
    with serving({"m": model}) as address, clients(address, "m", 2) as (greedy, modest):
        stream = threading.Thread(target=greedy.predict, args=(np.zeros((640, 6)),))
        stream.start()
        waits = []
        for _ in range(10):
            before = len(seen)
            modest.predict(np.full((1, 6), 7.0))
            waits.append(seen.index(True, before) - before + 1)
        assert stream.is_alive()
        stream.join()
    # One that is on the device when the call comes, one that may be ahead of it, and its own.
    assert max(waits) <= 3


def test_of_calls_computed_as_one_only_the_culprit_fails(schedulers: list[Scheduler]) -> None:
    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.004)
            if (x == 13).any():
                raise RuntimeError("thirteen")
            return x[:, :2]

    calls: list[Call] = []
    for index in range(100):
        x = np.full((2, 6), 13.0 if index % 10 == 3 else index % 7)
        calls.append(partial(_answer_or_error, x))
    with serving({"m": {"backend": "torch", "factory": Picky, "input_shape": [6], "nb_classes": 2}}) as address:
        with clients(address, "m", 10) as remotes:
            answers = at_once(remotes, calls)
    for index, answer in enumerate(answers):
        if index % 10 == 3:
            assert isinstance(answer, ModelFailed)
            assert "thirteen" in str(answer)
        else:
            np.testing.assert_array_equal(answer, np.full((2, 2), index % 7))
    assert total(schedulers[0]).batches < 90


def _answer_or_error(x: Any, remote: RemoteEstimator) -> Any:
    try:
        return remote.predict(x)
    except ModelFailed as e:
        return e


# What is alike.


def estimator(**keys: Any) -> Estimator:
    return load(Config(**{**MLP, **keys}))


def test_calls_are_alike_if_operation_options_shapes_and_dtypes_are() -> None:
    e = estimator()
    x, y = np.zeros((2, 6)), np.zeros(2, np.int64)

    def kind(function: Any = e.loss_gradient, rows: Any = None, **options: Any) -> Any:
        return batch_key(e, function, {"x": x, "y": y} if rows is None else rows, options, 8).kind

    assert kind() == kind(rows={"x": np.ones((5, 6)), "y": np.ones(5, np.int64)})
    assert kind(divisor=None) == kind(divisor=3.0)
    assert kind(standardisation=e.standardisation(0.5, 2.0)) == kind(standardisation=e.standardisation(0.5, 2.0))
    different = [
        kind(),
        kind(e.loss),
        kind(rows={"x": x.astype(np.float32), "y": y}),
        kind(rows={"x": np.zeros((2, 7)), "y": y}),
        kind(rows={"x": x, "y": np.zeros((2, 4))}),
        kind(rows={"x": x, "y": y.astype(np.float64)}),
        kind(standardisation=e.standardisation(0.5, 2.0)),
        kind(standardisation=e.standardisation(0.5, 3.0)),
        kind(standardisation=e.standardisation(np.full(6, 0.5), 2.0)),
        kind(layer="1"),
        kind(layer=1),
    ]
    assert len(set(different)) == len(different)


def test_what_may_see_more_than_a_row_is_computed_by_itself() -> None:
    def separable(e: Estimator, **options: Any) -> bool:
        return batch_key(e, e.predict, {"x": np.zeros((2, 6))}, options, 8).separable

    assert separable(estimator())
    assert not separable(estimator(), training_mode=True)
    assert not separable(estimator(coalesce=False))
    assert not separable(estimator(preprocessing_defences=[Sine]))
    assert not separable(estimator(postprocessing_defences=[Rounded]))


def test_an_ensemble_is_coalesced_if_its_members_are_and_a_black_box_if_its_owner_says_so() -> None:
    def answers() -> Any:
        return lambda x: x[:, :4]

    box = {"backend": "blackbox", "factory": answers, "input_shape": [6], "nb_classes": 4, "output": "logits"}
    served = {
        "net": MLP,
        "apart": {**MLP, "coalesce": False},
        "box": box,
        "open box": {**box, "coalesce": True},
        "nets": {"backend": "ensemble", "members": ["net", "open_box"]},
        "mixed": {"backend": "ensemble", "members": ["net", "apart"]},
        "boxed": {"backend": "ensemble", "members": ["net", "box"]},
    }
    served["open_box"] = served.pop("open box")
    with serving(served) as address, connect(address) as server:
        cards = {card.name: card.coalesce for card in server.models()}
    assert cards == {"net": True, "apart": False, "box": False, "open_box": True, "nets": True, "mixed": False, "boxed": False}


# What comes apart again.


def works(e: Estimator, sizes: list[int], y: Any, divisors: list[float | None]) -> list[Work]:
    """Blocks of loss gradients, as the calls of several clients have them."""
    rng = np.random.default_rng(3)
    made = []
    for size, divisor in zip(sizes, divisors, strict=True):
        rows = {"x": rng.normal(size=(size, 6)), "y": y(rng, size)}
        key = batch_key(e, e.loss_gradient, rows, {}, 99)
        made.append(Work(e.loss_gradient, rows, {"divisor": divisor}, _Undone(), None, size, key))  # type: ignore[arg-type]
    return made


class _Undone:
    """Stand-in for a future, which would need an event loop."""

    def cancelled(self) -> bool:
        return False


shared_estimator = cache(estimator)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    soft=st.booleans(),
    divisors=st.lists(st.one_of(st.none(), st.floats(0.5, 9)), min_size=6, max_size=6),
    room=st.one_of(st.none(), st.integers(1, 8)),
)
def test_a_mean_divides_by_the_rows_of_its_own_call(sizes: list[int], soft: bool, divisors: Any, room: int | None) -> None:
    def labels(rng: np.random.Generator, size: int) -> Any:
        return rng.dirichlet(np.ones(4), size) if soft else rng.integers(0, 4, size)

    e = shared_estimator()
    parts = works(e, sizes, labels, divisors[: len(sizes)])
    e.room.clear()
    if room is not None:
        e.room[("loss_gradient", (6,))] = room
    computed = compute(parts)
    assert computed.as_one
    for outcome in computed.outcomes:
        work = outcome.work
        expected = e.loss_gradient(work.rows["x"], work.rows["y"], divisor=work.options["divisor"])
        np.testing.assert_allclose(outcome.result, expected, rtol=1e-12, atol=1e-15)


# What there is no room for.


class Small(nn.Module):
    """On a device with room for so many rows."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.inner = models.mlp()
        self.room = room
        self.computed: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.computed.append(len(x))
        return self.inner(x)


def small(room: int, made: list[Small], **keys: Any) -> dict[str, Any]:
    def factory() -> nn.Module:
        made.append(Small(room))
        return made[-1]

    return {**MLP, "factory": factory, **keys}


def test_a_block_that_the_device_has_no_room_for_is_computed_in_halves(caplog: pytest.LogCaptureFixture) -> None:
    made: list[Small] = []
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 6)), rng.integers(0, 4, 300)
    with caplog.at_level(logging.WARNING, "gradwire.server"):
        with serving({"small": small(20, made), "large": MLP}) as address, connect(address) as server:
            remote, large = server.estimator("small"), server.estimator("large")
            made[0].computed.clear()
            np.testing.assert_allclose(remote.loss_gradient(x, y), large.loss_gradient(x, y), rtol=1e-10)
            np.testing.assert_allclose(remote.loss_gradient(x[:100], y[:100]), large.loss_gradient(x[:100], y[:100]), rtol=1e-10)
            assert max(made[0].computed) == 16
            assert sum(made[0].computed) == 400
            np.testing.assert_allclose(remote.predict(x), large.predict(x), rtol=1e-10)
            notes = remote.refresh().notes
    assert "loss_gradient of rows (6,) is computed 16 rows at once: more do not fit into the device's memory" in notes
    warned = [record for record in caplog.records if "ran out of memory" in record.message]
    assert [(record.operation, record.rows) for record in warned] == [("loss_gradient", 16), ("predict", 16)]  # type: ignore[attr-defined]


def test_where_not_even_one_row_fits_the_caller_is_told_and_nothing_is_remembered() -> None:
    made: list[Small] = []
    with serving({"m": small(20, made)}) as address, connect(address) as server:
        remote = server.estimator("m")
        made[0].room = 0
        with pytest.raises(OutOfMemory, match="Not even one row of predict fits"):
            remote.predict(np.zeros((100, 6)))
        made[0].room = 100
        remote.predict(np.zeros((100, 6)))
        assert made[0].computed[-1] == 100


def test_without_coalesce_a_block_is_not_cut_and_the_caller_is_told() -> None:
    with serving({"m": small(20, [], coalesce=False)}) as address, connect(address) as server:
        with pytest.raises(OutOfMemory, match="send fewer"):
            server.estimator("m").predict(np.zeros((100, 6)))


def test_calls_that_only_together_are_too_much_for_the_device_are_answered(schedulers: list[Scheduler]) -> None:
    made: list[Small] = []
    calls: list[Call] = [lambda r, i=i: r.predict(np.full((3, 6), float(i))) for i in range(100)]
    model = small(5, made)
    factory = model["factory"]
    with serving({"m": {**model, "factory": lambda: Slow(factory())}}) as address, clients(address, "m", 10) as remotes:
        alone = [call(remotes[0]) for call in calls]
        np.testing.assert_allclose(at_once(remotes, calls), alone, rtol=1e-10)
    assert total(schedulers[0]).blocks > total(schedulers[0]).batches
    assert replace(total(schedulers[0]), seconds=0.0).rows == 600
