"""Robustness against unexpected behaviour of callers and model owners."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradwire.backends.blackbox import Config as BlackBox
from gradwire.backends.load import load
from gradwire.client import Retry, connect
from gradwire.client.errors import GradwireError, LayerError, ModelFailed, TooManyClones, UnknownModel, Unsupported
from gradwire.server import serving
from gradwire.server.scheduling.costs import Costs
from gradwire.server.scheduling.merging import batch_key
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.scheduling.work import Work

pytestmark = pytest.mark.usefixtures("transport")


def torch_model(factory: Any, **more: Any) -> dict[str, Any]:
    return {"backend": "torch", "factory": factory, "input_shape": [4], "nb_classes": 2, "access": "trainer", **more}


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 2))


X = np.ones((2, 4), np.float32)


def test_texts_of_any_length_arrive_cut_but_with_their_reason() -> None:
    def verbose() -> Any:
        def predict(x: Any) -> Any:
            if x.flat[0] > 1:
                raise RuntimeError("ä" * 20_000)
            return np.zeros((len(x), 2))

        return predict

    black_box = {"backend": "blackbox", "factory": verbose, "input_shape": [4], "nb_classes": 2}
    with serving({"m": torch_model(net), "b": black_box}) as address, connect(address) as server:
        with pytest.raises(LayerError, match="xxx"):
            server.estimator("m").get_activations(X, "x" * 20_000)
        with pytest.raises(UnknownModel, match="xxx"):
            server.estimator("x" * 20_000)
        with pytest.raises(ModelFailed, match="ää"):
            server.estimator("b").predict(2 * X)


def test_clones_that_are_made_at_the_same_time_are_bounded_too() -> None:
    def slow_net() -> nn.Module:
        time.sleep(0.1)
        return net()

    with serving({"m": torch_model(slow_net)}, limits={"max_clones": 2}) as address, connect(address) as server:
        remote = server.estimator("m")
        made: list[Any] = []

        def clone() -> None:
            try:
                made.append(remote.clone_for_refitting())
            except TooManyClones as e:
                made.append(e)

        threads = [threading.Thread(target=clone) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(isinstance(result, TooManyClones) for result in made) == 6
        assert len(server.models()) == 3


def test_a_clone_has_versions_of_its_own_and_takes_them_with_it(tmp_path: Path) -> None:
    with serving({"m": torch_model(net)}, state_dir=str(tmp_path)) as address, connect(address) as server:
        clone = server.estimator("m").clone_for_refitting()
        before = clone.predict(X)
        clone.save("first")
        assert [version.name for version in clone.versions()] == ["first"]
        assert server.estimator("m").versions() == []
        clone.restore("first")
        np.testing.assert_array_equal(clone.predict(X), before)
        clone.delete()
        assert not list((tmp_path / "versions").glob("m~*"))


def test_a_version_that_does_not_fit_is_refused_with_what_does_not_fit(tmp_path: Path) -> None:
    sizes = iter((2, 3))

    def changing() -> nn.Module:
        return nn.Sequential(nn.Linear(4, next(sizes)), nn.LazyLinear(2)).eval()

    def initialised() -> nn.Module:
        module = changing()
        module(torch.zeros(1, 4))
        return module

    for attempt in range(2):
        with serving({"m": torch_model(initialised)}, state_dir=str(tmp_path)) as address, connect(address) as server:
            remote = server.estimator("m")
            if attempt == 0:
                remote.save("small")
                continue
            before = remote.predict(X)
            with pytest.raises(Unsupported, match="0.weight") as caught:
                remote.restore("small")
            assert str(tmp_path) not in str(caught.value)
            np.testing.assert_array_equal(remote.predict(X), before)


def test_the_outputs_of_a_model_with_free_input_sizes_are_learnt() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 1)

        def forward(self, x: Any) -> Any:
            return self.head(x.mean(1))

    with serving({"m": torch_model(Mean, input_shape=[-1, 3])}) as address, connect(address) as server:
        remote = server.estimator("m")
        assert remote.card.output_shape == (1,)
        for length in (1, 5):
            x = np.ones((2, length, 3))
            assert remote.vjp(x, np.ones((2, 1))).shape == x.shape


def test_a_black_box_that_waits_holds_up_nobody_who_does_not_want_it() -> None:
    def moody() -> Any:
        def predict(x: Any) -> Any:
            time.sleep(1.5 if x.flat[0] > 1 else 0)
            return np.zeros((len(x), 2))

        return predict

    model = {"backend": "blackbox", "factory": moody, "input_shape": [4], "nb_classes": 2}
    with serving({"m": model}) as address, connect(address) as one, connect(address, retry=Retry(attempts=1)) as other:
        remote = one.estimator("m")
        for _ in range(3):
            remote.predict(X)
        thread = threading.Thread(target=lambda: remote.predict(2 * X))
        thread.start()
        time.sleep(0.3)
        began_s = time.monotonic()
        other.models()
        assert thread.is_alive()
        assert time.monotonic() - began_s < 1.0
        thread.join()


OTHER = load(BlackBox(backend="blackbox", factory=lambda: np.asarray, input_shape=(4,), nb_classes=4, coalesce=True))
CALL = Scheduler(1000).admit("m", "c")


def block(of: Any, rows: int, *, operation: str = "predict", width: int = 4, model: str = "m", **options: Any) -> Work:
    """Rows to be computed by something of which the costs are to be known."""
    x = {"x": np.zeros((rows, width))}
    like = replace(batch_key(OTHER, getattr(OTHER, operation), x, options, 128), may_wait=False)
    function = getattr(of, operation)
    return Work(function, x, options, None, replace(CALL, model=model), rows, like)  # type: ignore[arg-type]


def test_what_is_remembered_of_a_block_keeps_nothing_alive() -> None:
    class Model:
        def predict(self, x: Any) -> Any:
            return x

    model, costs = Model(), Costs()
    work = block(model, 3, layer="a", label=None)
    assert not costs.is_quick(work)
    costs.remember([work], 0.001)
    assert costs.is_quick(work)
    gone = weakref.ref(model)
    del model, work
    gc.collect()
    assert gone() is None


def test_what_a_block_costs_is_known_by_model_operation_options_and_size() -> None:
    costs = Costs()
    costs.remember([block(OTHER, 3, layer="a")], 0.004)
    assert costs.is_quick(block(OTHER, 3, layer="a"))
    for other in (
        block(OTHER, 3, model="n", layer="a"),
        block(OTHER, 3, operation="loss", layer="a"),
        block(OTHER, 3, width=5, layer="a"),
        block(OTHER, 3, layer="b"),
        block(OTHER, 3),
    ):
        assert not costs.is_quick(other)


def test_what_other_sizes_cost_is_estimated_and_never_too_low() -> None:
    costs = Costs()
    costs.remember([block(OTHER, 3)], 0.004)
    assert costs.is_quick(block(OTHER, 1))
    assert costs.is_quick(block(OTHER, 7))
    assert not costs.is_quick(block(OTHER, 8))
    costs.remember([block(OTHER, 5), block(OTHER, 3)], 0.005)
    assert costs.is_quick(block(OTHER, 8))
    assert not costs.is_quick(block(OTHER, 17))


def test_of_two_times_each_counts_for_its_own_rows() -> None:
    costs = Costs()
    costs.remember([block(OTHER, 16)], 0.0055)
    costs.remember([block(OTHER, 31)], 0.0106)
    assert costs.is_quick(block(OTHER, 16))
    assert not costs.is_quick(block(OTHER, 31))


def test_one_slow_time_does_not_make_a_block_slow_and_two_do() -> None:
    costs = Costs()
    for seconds, quick in ((0.004, True), (0.1, True), (0.004, True), (0.1, True), (0.1, False), (0.004, True)):
        costs.remember([block(OTHER, 3)], seconds)
        assert costs.is_quick(block(OTHER, 3)) is quick
    fresh = Costs()
    fresh.remember([block(OTHER, 3)], 0.1)
    assert not fresh.is_quick(block(OTHER, 3))


def test_a_scheduler_forgets_holds_that_nobody_wants() -> None:
    import asyncio

    async def test() -> None:
        scheduler = Scheduler(10)
        for model in range(100):
            with scheduler.admit(model, "c") as ticket:
                await scheduler.lock(ticket)
        del ticket
        gc.collect()
        assert not scheduler._locks

    asyncio.run(test())


def test_a_cancelled_wait_for_a_model_passes_the_turn_on() -> None:
    import asyncio

    async def test() -> None:
        scheduler = Scheduler(10)
        first, second, third = (scheduler.admit("m", name) for name in "abc")
        await scheduler.lock(first)
        waiting = [asyncio.create_task(scheduler.lock(ticket)) for ticket in (second, third)]
        await asyncio.sleep(0)
        first.__exit__(None, None, None)  # the turn is the second's now, who has not run yet
        waiting[0].cancel()
        await asyncio.wait_for(waiting[1], 5)
        assert third.lock is not None

    asyncio.run(test())


def test_hundreds_of_failed_calls_leave_nothing_behind() -> None:
    with serving({"m": torch_model(net)}) as address, connect(address) as server:
        remote = server.estimator("m")
        before = threading.active_count()
        for index in range(200):
            with pytest.raises(GradwireError):
                remote.get_activations(X, f"nowhere {index}")
        assert remote.predict(X).shape == (2, 2)
        assert threading.active_count() <= before + 5
        assert remote.usage().forward <= 4
