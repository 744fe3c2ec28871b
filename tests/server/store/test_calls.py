"""The ledger: what is written once is there once, usage is its sum, and any part of it can be read."""

from __future__ import annotations

import threading
import tracemalloc
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy.exc import DBAPIError

from gradwire.server.store import BudgetLimits, CallFilter, CallRecord, ChargeRecord, Store, UsedRows
from gradwire.server.store.records import microseconds, moment
from gradwire.server.values.rows import Rows

START = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=timezone.utc)


def call(number: int = 0, **changes: object) -> CallRecord:
    record = CallRecord(
        microseconds(START) + number * 1_000_000, "server-1", "alice", "digits", "v1", "loss_gradient", 8, 8, 8, "OK", 4321,
        f"id-{number}",
    )  # fmt: skip
    return record._replace(**changes)  # type: ignore[arg-type]


def all_calls(store: Store, wanted: CallFilter = CallFilter()) -> list[CallRecord]:  # noqa: B008
    return [call for batch in store.calls(wanted) for call in batch]


def write(store: Store, calls: list[CallRecord], *charges: ChargeRecord, number: int = 1, writer: str = "w") -> bool:
    return store.write_calls(calls, charges, writer=writer, number=number)


def test_calls_come_back_as_they_were_written_in_the_order_of_their_time(store):
    calls = [call(3), call(1, outcome="BUDGET_SPENT", forward=0, backward=0), call(2, latency_us=2**40, rows=2**40)]
    assert write(store, calls)
    assert all_calls(store) == [calls[1], calls[2], calls[0]]
    assert store.count_calls() == 3
    assert store.last_calls(2) == [calls[0], calls[2]]


def test_usage_is_the_sum_of_the_ledger(store):
    write(store, [call(0), call(1, principal="bob", forward=3, backward=0), call(2, model="letters"), call(3)], number=1)
    write(store, [call(4, forward=100, backward=0)], number=2)
    assert store.usage() == [
        UsedRows("alice", "digits", Rows(116, 16)),
        UsedRows("alice", "letters", Rows(8, 8)),
        UsedRows("bob", "digits", Rows(3, 0)),
    ]
    assert store.usage("bob") == [UsedRows("bob", "digits", Rows(3, 0))]
    assert [used.principal for used in store.usage(model="digits")] == ["alice", "bob"]


def test_a_batch_that_is_tried_again_is_not_written_again(store):
    charge = ChargeRecord("alice", "digits", "id-0", b"d", 8, 8, 1)
    assert write(store, [call()], charge, number=7)
    assert not write(store, [call()], charge, number=7)
    assert not write(store, [call(1)], number=6)
    assert write(store, [call(2)], number=8)
    assert write(store, [call(3)], number=1, writer="another")
    assert store.count_calls() == 3
    assert store.usage()[0].rows == Rows(24, 24)


def test_a_batch_of_which_one_call_cannot_be_written_is_not_there_at_all(store):
    with pytest.raises((OverflowError, DBAPIError), match="(?i)too large|out of range"):
        write(store, [call(0), call(1, rows=2**70)])
    assert all_calls(store) == []
    assert store.usage() == []
    assert write(store, [call(0)])


def test_texts_that_callers_choose_are_kept_whatever_is_in_them(store):
    names = ["", "a'b\"c", "Ünïcödé 猫", "x" * 5000, "%s{}:y"]
    write(store, [call(number, request_id=name) for number, name in enumerate([*names, "nul\0nul"])])
    assert [found.request_id for found in all_calls(store)] == [*names, "nul\N{REPLACEMENT CHARACTER}nul"]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (CallFilter(principal="bob"), [1]),
        (CallFilter(model="letters"), [2]),
        (CallFilter(operation="predict"), [3]),
        (CallFilter(outcome="TIMEOUT"), [4]),
        (CallFilter(since=START + timedelta(seconds=2)), [2, 3, 4]),
        (CallFilter(until=START + timedelta(seconds=2)), [0, 1]),
        (CallFilter(principal="alice", since=START + timedelta(seconds=1), until=START + timedelta(seconds=4)), [2, 3]),
        (CallFilter(principal="bob", model="letters"), []),
    ],
    ids=["principal", "model", "operation", "outcome", "since", "until", "several", "none"],
)
def test_filters_leave_what_they_say(store, wanted, numbers):
    calls = [call(0), call(1, principal="bob"), call(2, model="letters"), call(3, operation="predict"), call(4, outcome="TIMEOUT")]
    write(store, calls)
    assert all_calls(store, wanted) == [calls[number] for number in numbers]
    assert store.count_calls(wanted) == len(numbers)
    assert store.last_calls(10, wanted) == [calls[number] for number in reversed(numbers)]


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="has no time zone"):
        microseconds(datetime(2026, 11, 21))
    assert moment(microseconds(START)) == START


def test_a_long_ledger_is_read_in_batches_while_others_write(store):
    for number in range(10):
        write(store, [call(number * 2000 + index) for index in range(2000)], number=number + 1)
    tracemalloc.start()
    sizes = []
    for batch in store.calls():
        sizes.append(len(batch))
        write(store, [call(10**6 + len(sizes))], number=100 + len(sizes))
    peak_nbytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # What was added while it was read is not among it.
    assert sum(sizes) == 20_000
    assert max(sizes) == 5000
    # All of it would be more than 10 MB.
    assert peak_nbytes < 8 << 20


def test_what_was_charged_under_a_request_id_is_known_to_every_server(url, store):
    first = ChargeRecord("alice", "digits", "id", b"content", 8, 3, 1000)
    write(store, [call()], first, number=1)
    with Store.open(url) as other:
        assert other.charged("alice", "digits", "id") == {b"content": Rows(8, 3)}
        assert other.charged("alice", "digits", "another") == {}
        assert other.charged("bob", "digits", "id") == {}
        write(other, [], first, first._replace(digest=b"else", forward=1), number=1, writer="other")
    assert store.charged("alice", "digits", "id") == {b"content": Rows(8, 3), b"else": Rows(1, 3)}


def test_what_two_servers_have_charged_under_one_id_is_charged_once_when_both_have_written_it(store):
    limits = BudgetLimits(max_forward=100)
    for number, server in enumerate(("one", "other"), 1):
        lease = store.take("alice", "digits", Rows(10), Rows(10), limits, 0.0)
        charges = [ChargeRecord("alice", "digits", "id-0", digest, 4, 4, number, lease) for digest in (b"a", b"b")]
        assert write(store, [call(server=server), call(1, forward=1, backward=0)], *charges, writer=server)
        # The budget counts forward rows alone. Of the ten, eight were used, twice.
        assert store.taken("alice", "digits", None, 0.0).total == Rows(10 if server == "one" else 12)
    assert [(call.server, call.forward, call.backward) for call in all_calls(store) if call.request_id == "id-0"] == [
        ("one", 8, 8),
        ("other", 0, 0),
    ]
    assert store.usage()[0].rows == Rows(10, 8)


def test_what_one_server_has_charged_and_another_has_asked_for_is_not_given_back_and_is_in_the_ledger_once(store):
    limits = BudgetLimits(max_forward=100)
    charge = ChargeRecord("alice", "digits", "id-0", b"a", 8, 0, 1000)
    lease = store.take_for(charge, limits, 0.0)
    assert store.take_for(charge._replace(at_us=2000), limits, 0.0) is None
    store.give_back_for(charge, lease)
    assert store.taken("alice", "digits", None, 0.0).total == Rows(8)
    write(store, [call(server="other")], charge, writer="other")
    write(store, [call(server="one")], charge, writer="one")
    assert [(call.server, call.forward) for call in all_calls(store)] == [("other", 8), ("one", 0)]
    again = charge._replace(request_id="id-1")
    store.give_back_for(again, store.take_for(again, limits, 0.0))
    assert store.taken("alice", "digits", None, 0.0).total == Rows(8)


def test_old_calls_are_forgotten_a_few_at_a_time_and_usage_is_not(store):
    write(store, [call(minute) for minute in range(5)])
    used = store.usage()
    before = moment(call(3).at_us)
    assert [store.forget_calls(before, 2) for _ in range(3)] == [2, 1, 0]
    assert [entry.at_us for entry in all_calls(store)] == [call(3).at_us, call(4).at_us]
    assert store.usage() == used
    # What was written once is not written again, forgotten or not.
    assert not write(store, [call(minute) for minute in range(5)])
    assert store.count_calls() == 2


def test_two_who_forget_at_the_same_time_remove_each_call_once(store):
    write(store, [call(minute) for minute in range(400)])
    removed = []

    def forget() -> None:
        # Whoever gets none may have met the other's; he is not done then.
        while store.count_calls():
            removed.append(store.forget_calls(moment(call(400).at_us), 30))

    threads = [threading.Thread(target=forget) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(removed) == 400
    assert store.count_calls() == 0


def test_old_charges_are_forgotten_and_usage_is_not(store):
    charges = [ChargeRecord("alice", "digits", f"id-{age}", b"", 1, 0, microseconds(START) + age) for age in (0, 1)]
    write(store, [call()], *charges)
    assert store.prune_charges(moment(microseconds(START) + 1)) == 1
    assert store.charged("alice", "digits", "id-0") == {}
    assert store.charged("alice", "digits", "id-1") == {b"": Rows(1, 0)}
    assert store.usage()[0].rows == Rows(8, 8)
    assert not write(store, [call()])
