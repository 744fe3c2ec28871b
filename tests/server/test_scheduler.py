"""The queue: fair, bounded, and left at once by what is cancelled."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
from runners import run, running

from gradwire.backends.blackbox import Config
from gradwire.backends.errors import ModelFailed
from gradwire.backends.load import load
from gradwire.server.errors import QueueFull
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.scheduling.work import BatchKey


def note(order: list[str], name: str) -> Callable[[], str]:
    def work() -> str:
        order.append(name)
        return name

    return work


def test_clients_take_turns_however_much_one_of_them_asks() -> None:
    async def test() -> None:
        scheduler, order = Scheduler(10), []
        with scheduler.admit("m", "greedy") as greedy, scheduler.admit("m", "modest") as modest:
            many = [greedy.submit(note(order, f"greedy {i}"), {}, {}) for i in range(100)]
            one = modest.submit(note(order, "modest"), {}, {})
            with running(scheduler):
                await asyncio.gather(one, *many)
        assert order.index("modest") <= 1
        assert [name for name in order if name != "modest"] == [f"greedy {i}" for i in range(100)]

    run(test)


def test_models_take_turns_too() -> None:
    async def test() -> None:
        scheduler, order = Scheduler(10), []
        with scheduler.admit("a", "c") as a, scheduler.admit("b", "c") as b:
            futures = [t.submit(note(order, t.model), {}, {}) for t in (a, b) for _ in range(3)]  # type: ignore[arg-type]
            with running(scheduler):
                await asyncio.gather(*futures)
        assert order == ["a", "b"] * 3

    run(test)


def test_more_calls_than_allowed_are_refused_and_places_come_back() -> None:
    async def test() -> None:
        scheduler = Scheduler(2)
        with scheduler.admit("m", "a"), scheduler.admit("m", "b"):
            with pytest.raises(QueueFull, match="max_calls"):
                scheduler.admit("m", "c")
        with scheduler.admit("m", "c"):
            assert scheduler.calls == 1
        assert scheduler.calls == 0

    run(test)


def test_what_is_cancelled_is_never_computed() -> None:
    async def test() -> None:
        scheduler, order = Scheduler(10), []
        with scheduler.admit("m", "b") as kept:
            with scheduler.admit("m", "a") as left:
                for i in range(5):
                    left.submit(note(order, f"left {i}"), {}, {})
            cancelled = kept.submit(note(order, "cancelled"), {}, {})
            cancelled.cancel()
            future = kept.submit(note(order, "kept"), {}, {})
            with running(scheduler):
                assert await future == "kept"
        assert order == ["kept"]

    run(test)


def test_a_call_that_holds_a_model_has_it_alone_and_other_models_go_on() -> None:
    async def test() -> None:
        scheduler, order = Scheduler(10), []
        with running(scheduler), scheduler.admit("m", "other") as waits, scheduler.admit("n", "other") as goes_on:
            with scheduler.admit("m", "fit") as fit:
                await scheduler.lock(fit)
                later = waits.submit(note(order, "waits"), {}, {})
                for step in range(3):
                    await fit.run(note(order, f"step {step}"))
                    await goes_on.run(note(order, "goes on"))
                assert not later.done()
            await later
        assert order == ["step 0", "goes on", "step 1", "goes on", "step 2", "goes on", "waits"]

    run(test)


def test_a_call_that_holds_a_model_passes_others_of_its_own_client() -> None:
    async def test() -> None:
        scheduler, order = Scheduler(10), []
        with scheduler.admit("m", "same") as waits, scheduler.admit("m", "same") as fit:
            later = waits.submit(note(order, "waits"), {}, {})
            await scheduler.lock(fit)
            with running(scheduler):
                await fit.run(note(order, "step"))
                fit.__exit__(None, None, None)
                scheduler.admit("m", "same")  # the place that the exit gave back
                await later
        assert order == ["step", "waits"]

    run(test)


def test_fits_of_one_model_come_one_after_the_other_even_if_one_gives_up_waiting() -> None:
    async def test() -> None:
        scheduler, held = Scheduler(10), []

        async def fit(name: str) -> None:
            with scheduler.admit("m", name) as ticket:
                await scheduler.lock(ticket)
                held.append(f"{name} begins")
                await asyncio.sleep(0.01)
                held.append(f"{name} ends")

        tasks = [asyncio.create_task(fit(name)) for name in ("first", "second", "third")]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert held == ["first begins", "first ends", "third begins", "third ends"]

    run(test)


def test_what_work_raises_reaches_its_caller_and_the_runner_goes_on() -> None:
    def fails() -> Any:
        raise ValueError("wrong")

    def exits() -> Any:
        raise SystemExit(1)

    async def test() -> None:
        scheduler = Scheduler(10)
        with running(scheduler), scheduler.admit("m", "c") as ticket:
            with pytest.raises(ValueError, match="wrong"):
                await ticket.run(fails)
            with pytest.raises(Exception, match="SystemExit"):
                await ticket.run(exits)
            assert await ticket.run(lambda: 1) == 1

    run(test)


def thread_of(seconds: float = 0.0) -> Callable[..., str]:
    """Work that says where it was computed."""

    def work(x: Any = None) -> str:
        time.sleep(seconds)
        return threading.current_thread().name

    return work


ROWS = {"x": np.zeros((3, 1))}
ESTIMATOR = load(
    Config(backend="blackbox", factory=lambda: np.asarray, input_shape=(1,), nb_classes=2, coalesce=True, task="regression")
)


def alike(kind: str, separable: bool = False, max_rows: int = 8) -> BatchKey:
    """Rows that are computed in the same way, if the kind is the same."""
    return BatchKey(ESTIMATOR, kind, (1,), separable, False, max_rows)


QUICK = alike("quick")


def test_a_call_that_is_alone_and_known_to_be_quick_is_computed_where_it_is() -> None:
    async def test() -> None:
        scheduler, quick = Scheduler(10), thread_of()
        here = threading.current_thread().name
        with running(scheduler), scheduler.admit("m", "c") as ticket:
            assert await scheduler.run_block(ticket, quick, ROWS, {}, QUICK) == "gradwire-runner"  # not known yet
            assert await scheduler.run_block(ticket, quick, ROWS, {}, QUICK) == here
            assert await scheduler.run_block(ticket, quick, ROWS, {}, alike("other")) == "gradwire-runner"
            with scheduler.admit("m", "another"):
                assert await scheduler.run_block(ticket, quick, ROWS, {}, QUICK) == "gradwire-runner"  # not alone

    run(test)


def test_callers_who_take_turns_are_not_alone_although_their_calls_come_one_by_one() -> None:
    async def test() -> None:
        scheduler, quick, one, two = Scheduler(10), thread_of(), object(), object()
        here = threading.current_thread().name
        with running(scheduler), scheduler.admit("m", "c") as ticket:
            await scheduler.run_block(ticket, quick, ROWS, {}, QUICK, one)
            assert await scheduler.run_block(ticket, quick, ROWS, {}, QUICK, one) == here
            assert await scheduler.run_block(ticket, quick, ROWS, {}, QUICK, two) == "gradwire-runner"
            await asyncio.sleep(0.05)
            assert await scheduler.run_block(ticket, quick, ROWS, {}, QUICK, one) == here  # the other's last call was long ago

    run(test)


def test_what_was_slow_the_last_time_is_left_to_the_runner() -> None:
    async def test() -> None:
        scheduler, slow = Scheduler(10), thread_of(0.02)
        with running(scheduler), scheduler.admit("m", "c") as ticket:
            for _ in range(3):
                assert await scheduler.run_block(ticket, slow, ROWS, {}, QUICK) == "gradwire-runner"

    run(test)


def test_two_threads_are_never_on_the_device_at_once() -> None:
    async def test() -> None:
        scheduler, quick = Scheduler(10), thread_of()
        with running(scheduler):
            with scheduler.admit("m", "c") as ticket:
                await scheduler.run_block(ticket, quick, ROWS, {}, QUICK)
            with scheduler.admit("m", "gone") as gone:
                # A call that is cancelled while the runner computes it: the device is busy although nobody is there.
                begun, ended = threading.Event(), threading.Event()

                def busy() -> None:
                    begun.set()
                    time.sleep(0.1)
                    ended.set()

                gone.submit(busy, {}, {})
                await asyncio.to_thread(begun.wait)
                assert not ended.is_set()
            with scheduler.admit("m", "c") as ticket:
                await scheduler.run_block(ticket, quick, ROWS, {}, QUICK)
                assert ended.is_set()

    run(test)


def test_errors_and_exits_end_the_call_wherever_it_is_computed() -> None:
    calls = 0

    def work(x: Any = None) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise SystemExit(1)
        if calls == 3:
            raise ValueError("wrong")
        return calls

    async def test() -> None:
        scheduler = Scheduler(10)
        with running(scheduler), scheduler.admit("m", "c") as ticket:
            assert await scheduler.run_block(ticket, work, ROWS, {}, QUICK) == 1
            with pytest.raises(ModelFailed, match="SystemExit"):
                await scheduler.run_block(ticket, work, ROWS, {}, QUICK)
            with pytest.raises(ValueError, match="wrong"):
                await scheduler.run_block(ticket, work, ROWS, {}, QUICK)
            assert await scheduler.run_block(ticket, work, ROWS, {}, QUICK) == 4

    run(test)


def doubled(sizes: list[int]) -> Callable[..., Any]:
    """Twice its rows; notes how many came at once."""

    def double(x: Any) -> Any:
        sizes.append(len(x))
        return 2 * x

    return double


def rows(*values: float) -> dict[str, Any]:
    return {"x": np.array(values)[:, None]}


def test_what_waits_for_the_same_computation_is_taken_in_turn_from_all_clients() -> None:
    async def test() -> None:
        scheduler, sizes = Scheduler(100), []
        double, like = doubled(sizes), alike("double", separable=True, max_rows=8)
        with ExitStack() as calls, scheduler.admit("m", "modest") as modest:
            greedy = [calls.enter_context(scheduler.admit("m", "greedy")) for _ in range(20)]
            many = [call.submit(double, rows(i, i), {}, like) for i, call in enumerate(greedy)]
            one = modest.submit(double, rows(-1), {}, like)
            with running(scheduler):
                await one
                # 2 of the greedy one's first block, 1 of the modest one's, then what else there is room for.
                assert sizes[0] == 7
                results = await asyncio.gather(*many)
        assert sizes == [7, 8, 8, 8, 8, 2]
        assert (await one).tolist() == [[-2]]
        assert [result.tolist() for result in results] == [[[2 * i], [2 * i]] for i in range(20)]

    run(test)


def test_blocks_of_one_call_are_computed_one_by_one_however_many_wait() -> None:
    async def test() -> None:
        scheduler, sizes = Scheduler(100), []
        double, like = doubled(sizes), alike("double", separable=True, max_rows=8)
        with scheduler.admit("m", "alone") as alone:
            many = [alone.submit(double, rows(i, i), {}, like) for i in range(3)]
            with running(scheduler):
                await asyncio.gather(*many)
        assert sizes == [2, 2, 2]

    run(test)


def test_only_what_is_alike_and_fits_is_computed_as_one() -> None:
    async def test() -> None:
        scheduler, sizes = Scheduler(100), []
        double = doubled(sizes)
        with scheduler.admit("m", "a") as a, scheduler.admit("m", "b") as b, scheduler.admit("n", "a") as n:
            one = [
                a.submit(double, rows(1), {}, alike("k", separable=True)),
                b.submit(double, rows(2, 2), {}, alike("other", separable=True)),
                b.submit(double, rows(3, 3, 3), {}, alike("k", separable=True)),
                n.submit(double, rows(4, 4, 4, 4, 4), {}, alike("k", separable=True)),
                a.submit(double, rows(5, 5, 5, 5, 5, 5), {}, alike("k", separable=True)),
                a.submit(double, rows(*[6] * 7), {}, alike("apart")),
                a.submit(double, rows(*[7] * 7), {}, alike("apart")),
            ]
            with running(scheduler):
                await asyncio.gather(*one)
        assert sorted(sizes) == [2, 4, 5, 6, 7, 7]

    run(test)


def test_a_block_of_few_rows_at_once_keeps_its_company_small() -> None:
    async def test() -> None:
        scheduler, sizes = Scheduler(100), []
        double = doubled(sizes)
        with scheduler.admit("m", "a") as a, scheduler.admit("m", "b") as b:
            futures = [a.submit(double, rows(i), {}, alike("k", separable=True, max_rows=2)) for i in range(4)]
            futures += [b.submit(double, rows(i), {}, alike("k", separable=True)) for i in range(4)]
            with running(scheduler):
                await asyncio.gather(*futures)
        assert sizes[:2] == [2, 2]
        assert sum(sizes) == 8

    run(test)


def test_the_one_that_makes_others_fail_fails_alone() -> None:
    def picky(x: Any) -> Any:
        if (x < 0).any():
            raise ValueError("a negative row")
        return x

    async def test() -> None:
        scheduler, like = Scheduler(100), alike("picky", separable=True)
        with scheduler.admit("m", "a") as a, scheduler.admit("m", "b") as b:
            futures = [ticket.submit(picky, rows(value), {}, like) for ticket, value in ((a, 1), (b, -1), (a, 2))]
            with running(scheduler):
                results = await asyncio.gather(*futures, return_exceptions=True)
        assert [results[0].tolist(), results[2].tolist()] == [[[1]], [[2]]]  # type: ignore[union-attr]
        assert isinstance(results[1], ValueError)
        assert scheduler.tally.of[("m", "picky")].batches == 3

    run(test)


def test_a_call_that_is_cancelled_while_it_is_computed_with_others_leaves_them_theirs() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(x: Any) -> Any:
        begun.set()
        go_on.wait(10)
        return 2 * x

    async def test() -> None:
        scheduler, like = Scheduler(100), alike("slow", separable=True)
        with scheduler.admit("m", "a") as a, scheduler.admit("m", "b") as b:
            with scheduler.admit("m", "c") as c:
                futures = [ticket.submit(slow, rows(value), {}, like) for ticket, value in ((a, 1), (c, 2), (b, 3))]
                with running(scheduler):
                    await asyncio.to_thread(begun.wait)
                    futures[1].cancel()
                    c.__exit__(None, None, None)
                    scheduler.admit("m", "c")  # the place that the exit gave back
                    go_on.set()
                    assert (await futures[0]).tolist() == [[2]]
                    assert (await futures[2]).tolist() == [[6]]
        assert scheduler.tally.of[("m", "slow")].blocks == 3

    run(test)
