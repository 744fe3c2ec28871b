"""The ledger's writer: every call is written once, whatever happens to the store, or is counted as lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import environment

from gradwire.server.store import CallRecord, CallWriter, ChargeRecord, Store, StoreUnavailable
from gradwire.server.values.rows import Rows


def call(number: int) -> CallRecord:
    return CallRecord(number, "s", "alice", "digits", "v1", "predict", 2, 2, 1, "OK", 10, str(number))


def written(store: Store) -> list[int]:
    return [call.at_us for batch in store.calls() for call in batch]


def wait(true: Callable[[], bool], timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_calls_are_written_when_the_period_is_over(store):
    with CallWriter(store, period_s=0.05) as writer:
        writer.append(call(1), [ChargeRecord("alice", "digits", "1", b"", 2, 1, 1)])
        wait(lambda: writer.flushed == 1)
        assert written(store) == [1]
        assert store.charged("alice", "digits", "1") == {b"": Rows(2, 1)}
        assert (writer.pending, writer.lost, writer.problem, writer.full) == (0, 0, None, False)


def test_many_calls_are_written_before_the_period_is_over(store):
    with CallWriter(store, period_s=600, batch_calls=100) as writer:
        for number in range(250):
            writer.append(call(number))
        wait(lambda: writer.flushed >= 200)


def test_flush_waits_for_what_was_appended(store):
    with CallWriter(store, period_s=600) as writer:
        for number in range(10):
            writer.append(call(number))
        assert writer.flush(20)
        assert written(store) == list(range(10))
        assert writer.flush(0.5)


def test_closing_writes_what_is_pending(store):
    writer = CallWriter(store, period_s=600)
    for number in range(2500):
        writer.append(call(number))
    assert writer.close(30) == 0
    assert written(store) == list(range(2500))
    assert store.usage()[0].rows == Rows(5000, 2500)
    # What comes later is not lost silently.
    writer.append(call(1))
    assert writer.lost == 1
    assert writer.close(1) == 1


def test_threads_append_at_the_same_time_and_nothing_is_lost(store):
    with CallWriter(store, period_s=0.01, batch_calls=50) as writer:
        threads = [
            threading.Thread(target=lambda part=part: [writer.append(call(part * 1000 + number)) for number in range(1000)])
            for part in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert writer.flush(30)
    assert written(store) == list(range(4000))


class Broken:
    """A store whose connection fails alternately before and after a batch is written."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.down = False
        self.attempts = 0

    def write_calls(self, *arguments: object, **named: object) -> bool:
        self.attempts += 1
        if self.down or self.attempts % 3 == 1:
            raise StoreUnavailable("before")
        done = self.store.write_calls(*arguments, **named)  # type: ignore[arg-type]
        if self.attempts % 3 == 2:
            raise StoreUnavailable("after", uncertain=True)
        return done


def test_what_may_have_been_written_is_not_written_again(store):
    broken = Broken(store)
    with CallWriter(broken, period_s=0.01, batch_calls=10, retry_s=0.01) as writer:  # type: ignore[arg-type]
        for number in range(100):
            writer.append(call(number))
        assert writer.flush(30)
    assert broken.attempts >= 30
    assert written(store) == list(range(100))
    assert store.usage()[0].rows == Rows(200, 100)


def test_while_the_store_is_gone_calls_are_kept_until_there_is_no_room(store):
    broken = Broken(store)
    broken.down = True
    writer = CallWriter(broken, period_s=0.01, batch_calls=10, capacity_calls=100, retry_s=0.05)  # type: ignore[arg-type]
    for number in range(50):
        writer.append(call(number))
    wait(lambda: writer.problem == "before")
    assert not writer.full
    for number in range(50, 100):
        writer.append(call(number))
    # Those under way still find room, up to the last.
    assert writer.full
    assert writer.lost == 0
    for number in range(100, 130):
        writer.append(call(number))
    assert writer.pending + writer.lost == 130
    assert writer.lost >= 20
    broken.down = False
    assert writer.flush(30)
    assert (writer.full, writer.problem) == (False, None)
    assert writer.flushed + writer.close(5) == 130
    assert len(written(store)) == writer.flushed


def test_a_store_that_stays_away_does_not_hold_the_end_up(store):
    broken = Broken(store)
    broken.down = True
    writer = CallWriter(broken, period_s=0.01, retry_s=60)  # type: ignore[arg-type]
    for number in range(5):
        writer.append(call(number))
    wait(lambda: writer.problem is not None)
    began = time.monotonic()
    assert writer.close(0.5) == 5
    assert time.monotonic() - began < 5
    assert written(store) == []


def test_a_call_that_cannot_be_written_takes_no_other_with_it(store, caplog):
    with CallWriter(store, period_s=600) as writer:
        for number in range(5):
            writer.append(call(number))
        writer.append(call(5)._replace(rows=2**70))
        writer.append(call(6))
        assert writer.flush(30)
        assert (writer.flushed, writer.lost) == (6, 1)
    assert written(store) == [0, 1, 2, 3, 4, 6]
    assert "cannot be written to the ledger and is lost" in caplog.text


def test_a_postgresql_that_stops_in_between_gets_everything_once(postgres):
    with Store.open(postgres.new()) as store, CallWriter(store, period_s=0.01, batch_calls=20, retry_s=0.1) as writer:
        stopped = threading.Event()
        number = 0

        def outage() -> None:
            postgres.stop()
            wait(lambda: writer.problem is not None)
            postgres.start()
            stopped.set()

        thread = threading.Thread(target=outage)
        wait(lambda: writer.append(call(-1)) is None)
        thread.start()
        while not stopped.is_set():
            writer.append(call(number))
            number += 1
            time.sleep(0.001)
        thread.join()
        assert writer.flush(60)
        assert written(store) == list(range(-1, number))
        assert writer.lost == 0
        assert store.usage()[0].rows == Rows(2 * (number + 1), number + 1)


@pytest.mark.parametrize("after_lines", [3, 30])
def test_after_a_kill_usage_is_still_the_sum_of_the_ledger(url, after_lines):
    Store.open(url).close()
    script = Path(__file__).parent / "append_calls.py"
    process = subprocess.Popen([sys.executable, str(script), url], stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    flushed = 0
    while flushed < after_lines * 100:
        flushed = int(process.stdout.readline())
    process.kill()
    process.communicate(timeout=30)
    with Store.open(url) as store:
        calls = [call for batch in store.calls() for call in batch]
        assert [call.request_id for call in calls] == [str(number) for number in range(len(calls))]
        # What the writer said is durable, is there.
        assert len(calls) >= flushed
        forward: Counter[str] = Counter()
        backward: Counter[str] = Counter()
        for found in calls:
            forward[found.principal] += found.forward
            backward[found.principal] += found.backward
        assert {used.principal: used.rows for used in store.usage()} == {
            name: Rows(forward[name], backward[name]) for name in sorted(forward)
        }
