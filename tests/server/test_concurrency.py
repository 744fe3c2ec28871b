"""Models with devices of their own, and that all rows of a call are answered by the same weights."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np
from runners import run, running

from gradwire.backends.blackbox import Config
from gradwire.backends.load import load
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.scheduling.work import BatchKey

ESTIMATOR = load(Config(backend="blackbox", factory=lambda: np.asarray, input_shape=(1,), nb_classes=2, task="regression"))
BLOCK = BatchKey(ESTIMATOR, "block", (1,), False, True, 8)
ROWS = {"x": np.zeros((3, 1))}


def test_a_model_has_as_many_batches_under_way_as_it_has_places_and_others_one() -> None:
    async def test() -> None:
        scheduler = Scheduler(10, concurrency={"replicated": 3})
        together = threading.Barrier(3)
        lock, now, most = threading.Lock(), {"replicated": 0, "shared": 0}, {"replicated": 0, "shared": 0}

        def count(model: str, change: int) -> None:
            with lock:
                now[model] += change
                most[model] = max(most[model], now[model])

        def replicated(x: object) -> None:
            count("replicated", 1)
            together.wait(10)
            count("replicated", -1)

        def shared(x: object) -> None:
            count("shared", 1)
            count("shared", -1)

        with running(scheduler, 5), scheduler.admit("replicated", "a") as a, scheduler.admit("m", "b") as b:
            with scheduler.admit("n", "c") as c:
                many = [a.submit(replicated, ROWS, {}, BLOCK) for _ in range(9)]
                few = [ticket.submit(shared, ROWS, {}, BLOCK) for ticket in (b, c) for _ in range(20)]
                await asyncio.gather(*many, *few)
        assert most == {"replicated": 3, "shared": 1}

    run(test)


def test_a_call_that_has_begun_is_let_to_its_end_before_its_model_is_held_and_one_that_has_not_waits() -> None:
    async def test() -> None:
        scheduler, order = Scheduler(10, parts={"both": ["m"]}), list[str]()

        def block(name: str) -> Callable[..., None]:
            return lambda x=None: order.append(name)

        with running(scheduler, 1), scheduler.admit("m", "fit") as fit, scheduler.admit("both", "other") as other:
            with scheduler.admit("m", "begun") as begun, scheduler.admit("m", "late") as late:
                await begun.submit(block("begun"), ROWS, {}, BLOCK)
                await scheduler.lock(fit)
                fitted = fit.submit(block("fit"), {}, {})
                behind = [ticket.submit(block("late"), ROWS, {}, BLOCK) for ticket in (late, other)]
                await begun.submit(block("begun"), ROWS, {}, BLOCK)
                await begun.submit(block("begun"), ROWS, {}, BLOCK)
                await asyncio.sleep(0.05)
                assert order == ["begun"] * 3
                begun.__exit__(None, None, None)
                await fitted
                assert order == ["begun"] * 3 + ["fit"]
                fit.__exit__(None, None, None)
                await asyncio.gather(*behind)
                # Contexts leave once more: the places are only counted.
                scheduler.admit("m", "x"), scheduler.admit("m", "y")
        assert order == ["begun"] * 3 + ["fit"] + ["late"] * 2

    run(test)


def test_what_is_answered_by_one_block_does_not_wait_for_a_slow_call_that_a_fit_waits_for() -> None:
    async def test() -> None:
        scheduler, order = Scheduler(10), list[str]()

        def block(name: str) -> Callable[..., None]:
            return lambda x=None: order.append(name)

        with running(scheduler, 1), scheduler.admit("m", "fit") as fit, scheduler.admit("m", "one") as one:
            with scheduler.admit("m", "slow") as slow:
                await slow.submit(block("slow"), ROWS, {}, BLOCK)
                await scheduler.lock(fit)
                fitted = fit.submit(block("fit"), {}, {})
                await scheduler.run_block(one, block("one"), ROWS, {}, BLOCK)
                assert not fitted.done()
            await fitted
        assert order == ["slow", "one", "fit"]

    run(test)


def test_a_restore_that_is_cancelled_on_the_device_has_its_model_until_it_is_done() -> None:
    async def test() -> None:
        scheduler = Scheduler(10, concurrency={"r": 2})
        begun, go_on = threading.Event(), threading.Event()

        def restore() -> None:
            begun.set()
            go_on.wait(10)

        with running(scheduler, 2), scheduler.admit("r", "a") as ticket:
            await scheduler.lock(ticket)
            done, behind = ticket.submit(restore, {}, {}), ticket.submit(restore, {}, {})
            await asyncio.to_thread(begun.wait)
            assert not scheduler.withdraw(ticket)
            go_on.set()
            await done
            await asyncio.sleep(0.05)
            assert scheduler.withdraw(ticket)
            assert not behind.done()

    run(test)


def test_a_model_is_held_when_nothing_is_under_way_on_any_of_its_places() -> None:
    async def test() -> None:
        scheduler, order = Scheduler(10, concurrency={"r": 2}), list[str]()
        begun, go_on = threading.Event(), threading.Event()

        def slow(x: object) -> None:
            begun.set()
            go_on.wait(10)
            order.append("rows")

        with running(scheduler, 2), scheduler.admit("r", "a") as a, scheduler.admit("r", "fit") as fit:
            rows = asyncio.ensure_future(scheduler.run_block(a, slow, ROWS, {}, BLOCK))
            await asyncio.to_thread(begun.wait)
            await scheduler.lock(fit)
            fitted = fit.submit(lambda: order.append("fit"), {}, {})
            await asyncio.sleep(0.05)
            assert order == []
            go_on.set()
            await asyncio.gather(rows, fitted)
        assert order == ["rows", "fit"]

    run(test)
