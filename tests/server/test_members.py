"""Models that are made of others: loaded once and in order, checked before anything is loaded, held up by a fit of a part."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance.cases import CASES
from torch import nn
from torch_owners import SlowSteps

import models
from gradwire.client import Progress, RemoteEstimator, connect
from gradwire.client.errors import NotGranted, Unsupported
from gradwire.server import serving
from gradwire.server.config.reading import parse_config, parts
from gradwire.server.config.server import ServerConfig
from gradwire.server.engines.engine import load_models
from gradwire.server.errors import ConfigError
from gradwire.server.scheduling.runner import Runner
from gradwire.server.scheduling.scheduler import Scheduler

NET: dict[str, Any] = {"backend": "torch", "factory": models.mlp, "input_shape": [6], "nb_classes": 4}
X = np.random.default_rng(0).random((5, 4)).astype(np.float32)
Y = np.arange(5) % 2


def config(**entries: dict[str, Any]) -> ServerConfig:
    return parse_config({"models": [{"name": name, **entry} for name, entry in entries.items()]}, Path(), "file")


def ensemble(*members: str, **keys: Any) -> dict[str, Any]:
    return {"backend": "ensemble", "members": list(members), **keys}


def test_members_are_loaded_first_and_once_wherever_they_stand() -> None:
    made: list[str] = []

    def factory(name: str) -> Any:
        def make() -> nn.Module:
            made.append(name)
            return models.mlp()

        return make

    nets = {name: {**NET, "factory": factory(name)} for name in ("a", "b", "c")}
    wanted = config(outer=ensemble("inner", "c"), a=nets["a"], inner=ensemble("a", "b"), b=nets["b"], c=nets["c"])
    loaded = load_models(wanted)
    assert sorted(made) == ["a", "b", "c"]
    assert loaded.keys() == {"outer", "inner", "a", "b", "c"}
    assert parts(wanted.models) == {
        "a": frozenset(),
        "b": frozenset(),
        "c": frozenset(),
        "inner": frozenset("ab"),
        "outer": frozenset({"inner", *"abc"}),
    }


def test_without_ensembles_models_load_in_the_order_of_the_file() -> None:
    assert list(parts(config(c=NET, a=NET, b=NET).models)) == ["c", "a", "b"]


def test_what_members_say_completes_the_configuration_before_anything_is_loaded() -> None:
    served = {entry.name: entry.model for entry in config(both=ensemble("a", "b"), a=NET, b={**NET, "max_batch_rows": 7}).models}
    both = served["both"]
    assert both is not None
    assert (both.input_shape, both.nb_classes, both.max_batch_rows) == ((6,), 4, 7)


ALIAS = {"same_as": "a", "access": "labels"}
OTHER = {**NET, "nb_classes": 3}


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        (dict(a=NET, e=ensemble("a", "b")), r"models\[1\] \(e\): members: 'b' is not a name with its own model; .* names of: a$"),
        (dict(a=NET, alias=ALIAS, e=ensemble("a", "alias")), r"models\[2\] \(e\): members: 'alias' is not a name with its own"),
        (dict(e=ensemble("e")), r"models\[0\] \(e\): members: e in e: a model cannot be its own member"),
        (dict(e=ensemble("f"), f=ensemble("e")), r"models\[\d\] \(.\): members: . in . in .: a model cannot be its own member"),
        (dict(a=NET, b=OTHER, e=ensemble("a", "b")), r"models\[2\] \(e\): members: nb_classes differs: a 4, b 3"),
        (dict(a=NET, e=ensemble("a", nb_classes=7)), r"models\[1\] \(e\): nb_classes: given 7; the members have 4"),
        (dict(a=NET, e=ensemble("a", member_weights=[1, 2])), r"models\[1\] \(e\): member_weights: expected one finite number"),
        (dict(a=NET, e=ensemble("a", weights="w.safetensors")), r"models\[1\] \(e\): weights: an ensemble has none of its own"),
        (dict(e={"backend": "ensemble"}), r"models\[0\] \(e\): members: required, without a default; set it"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused_with_the_place_and_the_key(entries: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=f"^file: {why}"):
        config(**entries)


def test_members_whose_outputs_cannot_be_added_up_are_refused_when_they_have_been_loaded() -> None:
    softmax = {**NET, "factory": lambda: models.mlp(end="Softmax")}
    with pytest.raises(ConfigError, match="^e: members: outputs are a logits, b probabilities; expected all logits"):
        load_models(config(a=NET, b=softmax, e=ensemble("a", "b")))


def test_the_access_of_the_ensemble_decides_and_not_that_of_its_members() -> None:
    served = {
        "hidden": {**NET, "loss": "torch.nn.CrossEntropyLoss", "access": "labels"},
        "open": ensemble("hidden", access="trainer"),
        "shut": {"same_as": "open", "access": "scores"},
    }
    x = np.zeros((2, 6))
    with serving(served) as address, connect(address) as server:
        assert server.estimator("open").loss_gradient(x, [0, 1]).shape == (2, 6)
        with pytest.raises(NotGranted):
            server.estimator("shut").loss_gradient(x, [0, 1])
        with pytest.raises(NotGranted):
            server.estimator("hidden").loss_gradient(x, [0, 1])
        assert server.estimator("open").usage().forward == 2
        assert server.estimator("hidden").usage().forward == 0
        with pytest.raises(Unsupported, match=r"'open' \(ensemble\) has no fit"):
            server.estimator("open").fit(x, [0, 1])


def note(order: list[str], name: str) -> Callable[[], None]:
    return lambda: order.append(name)


def test_a_call_that_holds_a_part_holds_up_what_is_made_of_it_and_nothing_else() -> None:
    async def test() -> None:
        order: list[str] = []
        scheduler = Scheduler(10, {"inner": ["a"], "outer": ["inner", "a", "b"], "other": ["b"]})
        runner = Runner(scheduler, asyncio.get_running_loop())
        runner.start()
        waits = {model: scheduler.admit(model, "c") for model in ("inner", "outer", "a")}
        goes_on = {model: scheduler.admit(model, "c") for model in ("other", "b")}
        with scheduler.admit("a", "fit") as fit:
            await scheduler.lock(fit)
            later = [ticket.submit(note(order, model), {}, {}) for model, ticket in waits.items()]
            for model, ticket in goes_on.items():
                await ticket.run(note(order, model))
            await fit.run(note(order, "step"))
            assert order == ["other", "b", "step"]
        await asyncio.gather(*later)
        assert sorted(order[3:]) == ["a", "inner", "outer"]
        runner.stop()

    asyncio.run(asyncio.wait_for(test(), 20))


def test_fits_of_two_members_go_on_side_by_side() -> None:
    async def test() -> None:
        order: list[str] = []
        scheduler = Scheduler(10, {"both": ["a", "b"]})
        runner = Runner(scheduler, asyncio.get_running_loop())
        runner.start()
        with scheduler.admit("both", "c") as waits:
            with scheduler.admit("b", "c") as b:
                with scheduler.admit("a", "c") as a:
                    await scheduler.lock(a)
                    await scheduler.lock(b)
                    later = waits.submit(note(order, "both"), {}, {})
                    for name, ticket in (("a", a), ("b", b), ("a", a)):
                        await ticket.run(note(order, name))
                await b.run(note(order, "b"))
            await later
        assert order == ["a", "b", "a", "b", "both"]
        runner.stop()

    asyncio.run(asyncio.wait_for(test(), 20))


class Enough(Exception):
    """Of a caller who has seen enough."""


SLOW: dict[str, Any] = {
    "backend": "torch",
    "factory": SlowSteps,
    "loss": "torch.nn.CrossEntropyLoss",
    "optimizer": {"path": "torch.optim.SGD", "args": {"lr": 1.0}},
    "input_shape": [4],
    "nb_classes": 2,
    "access": "trainer",
}


def other() -> nn.Module:
    return nn.Linear(4, 2)


PAIR: dict[str, Any] = {"both": ensemble("slow", "other"), "slow": SLOW, "other": {**SLOW, "factory": other}}


def answers_meanwhile(remote: RemoteEstimator, ended: threading.Event) -> list[Any]:
    answered = []
    while not ended.is_set():
        answered.append(remote.predict(X))
    return answered


@pytest.mark.parametrize("cancelled", [False, True], ids=["fitted", "cancelled"])
def test_half_trained_weights_never_answer_through_an_ensemble(cancelled: bool) -> None:
    served = {"outer": ensemble("both", "other"), **PAIR, "elsewhere": CASES["torch-cnn"].config}
    begun, ended = threading.Event(), threading.Event()

    def watch(progress: Progress) -> None:
        begun.set()
        if cancelled and progress.epoch > 2:
            raise Enough

    with serving(served) as address, connect(address) as server, ThreadPoolExecutor(4) as pool:
        slow, ensembles = server.estimator("slow"), [server.estimator(name) for name in ("both", "outer")]
        elsewhere, image = server.estimator("elsewhere"), CASES["torch-cnn"].rows(1, 0)
        before = [remote.predict(X) for remote in ensembles]

        def fit() -> None:
            # A step takes 0.05 s.
            with contextlib.suppress(Enough):
                slow.fit(X, Y, batch_size=1, nb_epochs=50 if cancelled else 4, on_progress=watch)

        fitting = pool.submit(fit)
        assert begun.wait(10)
        asked = [pool.submit(answers_meanwhile, remote, ended) for remote in ensembles]
        nb_answered = 0
        while not fitting.done():
            elsewhere.predict(image)
            nb_answered += 1
        fitting.result()
        after = [remote.predict(X) for remote in ensembles]
        ended.set()
        # Others went on: it is not the whole server that was held up.
        assert nb_answered > 3
        for answered, first, last in zip(asked, before, after, strict=True):
            assert np.array_equal(first, last) == cancelled
            for outputs in answered.result():
                assert np.array_equal(outputs, first) or np.array_equal(outputs, last)


def test_a_reset_and_a_restored_version_of_a_member_are_the_ensembles_too() -> None:
    with serving(PAIR) as address, connect(address) as server:
        both, slow = server.estimator("both"), server.estimator("slow")
        first = both.predict(X)
        slow.fit(X, Y, nb_epochs=1)
        slow.save("kept")
        fitted = both.predict(X)
        assert not np.array_equal(fitted, first)
        assert both.refresh().version == "slow(fit-1) other(initial)"
        slow.reset()
        np.testing.assert_array_equal(both.predict(X), first)
        assert both.refresh().version == "initial"
        slow.restore("kept")
        np.testing.assert_array_equal(both.predict(X), fitted)
        assert both.refresh().version == "slow(kept) other(initial)"


def test_a_clone_of_a_member_is_no_member() -> None:
    with serving(PAIR) as address, connect(address) as server:
        both = server.estimator("both")
        first = both.predict(X)
        clone = server.estimator("slow").clone_for_refitting()
        clone.fit(X, Y, nb_epochs=1)
        np.testing.assert_array_equal(both.predict(X), first)
        clone.delete()
