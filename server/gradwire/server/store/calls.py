"""The ledger of calls, what it sums up to, and what was charged under which request id.

A batch is there whole or not at all, and once however often it is tried: usage is always the sum of the ledger, with the calls that
have been removed from it since they grew too old. What two servers
have charged under one request id is charged once when both have written it: the second one's call is written without those rows,
and they go back to the budget.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, Select, delete, func, select, tuple_, update

from gradwire.server.store import budgets
from gradwire.server.store.database import Database
from gradwire.server.store.records import (
    BudgetLimits,
    CallFilter,
    CallRecord,
    ChargeRecord,
    Lease,
    UsedRows,
    microseconds,
)
from gradwire.server.store.schema import calls, charges, usage, writers
from gradwire.server.values.rows import Rows

_FIELDS = [calls.c[name] for name in CallRecord._fields]
_INSERT_CALLS = f"INSERT INTO calls ({', '.join(CallRecord._fields)}) VALUES"
_INSERT_CHARGES = "INSERT INTO charges (principal, model, request_id, digest, forward, backward, at_us, booked) VALUES"
_ROWS_AT_ONCE = 75
"""Of a statement; SQLite before 3.32 takes 999 values in one."""
_BATCH = 5000
_KEY = (charges.c.principal, charges.c.model, charges.c.request_id, charges.c.digest)
_Key: TypeAlias = tuple[str, str, str, bytes]
_COUNTED = {"preserve_rowcount": True}
"""Without it, how many rows an INSERT made is not kept on PostgreSQL, and reads as unknown."""


def write(
    database: Database,
    connection: Connection,
    batch: Sequence[CallRecord],
    charged: Iterable[ChargeRecord],
    writer: str,
    number: int,
    now_us: int,
) -> bool:
    """Writes a batch, unless it is there already. Returns whether it was not.

    Args:
        batch: Calls, in any order.
        charged: What the calls were charged under request ids.
        writer: Whose batch it is; nobody else's name.
        number: Of the batch: greater than those before.
    """
    mark = database.insert(writers).values(writer=writer, batch=number, at_us=now_us)
    marked = connection.execute(
        mark.on_conflict_do_update(
            index_elements=["writer"],
            set_={"batch": mark.excluded.batch, "at_us": mark.excluded.at_us},
            where=writers.c.batch < mark.excluded.batch,
        ),
        execution_options=_COUNTED,
    )
    if marked.rowcount == 0:
        return False
    there, booked = _book(database, connection, charged)
    _give_back(database, connection, there)
    if booked:
        batch = _without(batch, booked)
    if batch:
        _insert(database, connection, _INSERT_CALLS, [_values(call) for call in batch])
        _use(database, connection, batch)
    return True


def select_calls(wanted: CallFilter) -> Select[Any]:
    """The calls that a filter leaves, the earliest first."""
    return select(*_FIELDS).where(*_conditions(wanted)).order_by(calls.c.at_us, calls.c.id)


def batches(connection: Connection, wanted: CallFilter) -> Iterator[list[CallRecord]]:
    """Calls in batches as the database sends them, so that a ledger of any length takes the same memory."""
    with connection.execution_options(yield_per=_BATCH).execute(select_calls(wanted)) as result:
        for rows in result.partitions():
            yield [CallRecord._make(row) for row in rows]


def last_calls(connection: Connection, wanted: CallFilter, count: int) -> list[CallRecord]:
    """The last calls that a filter leaves, the latest first."""
    query = select(*_FIELDS).where(*_conditions(wanted)).order_by(calls.c.at_us.desc(), calls.c.id.desc()).limit(count)
    return [CallRecord._make(row) for row in connection.execute(query)]


def count_calls(connection: Connection, wanted: CallFilter) -> int:
    """How many calls a filter leaves."""
    return connection.scalar(select(func.count()).select_from(calls).where(*_conditions(wanted))) or 0


def used(connection: Connection, principal: str | None, model: str | None) -> list[UsedRows]:
    """What was used, by principal and model, in order of their names."""
    query = select(usage).order_by(usage.c.principal, usage.c.model)
    if principal is not None:
        query = query.where(usage.c.principal == principal)
    if model is not None:
        query = query.where(usage.c.model == model)
    found = connection.execute(query)
    return [UsedRows(row.principal, row.model, Rows(row.used_forward, row.used_backward)) for row in found]


def charged(connection: Connection, principal: str, model: str, request_id: str) -> dict[bytes, Rows]:
    """What has been charged under a request id, by what was asked."""
    query = select(charges).filter_by(principal=principal, model=model, request_id=_storable(request_id))
    return {bytes(row.digest): Rows(row.forward, row.backward) for row in connection.execute(query)}


def take_for(database: Database, connection: Connection, charge: ChargeRecord, limits: BudgetLimits, now: float) -> Lease | None:
    """Takes the rows of a charge and keeps it, unless it is there. Raises BudgetShort."""
    # First, so that of two servers with the same charge one waits for the other.
    insert = database.insert(charges).values(_kept(charge, booked=False)).on_conflict_do_nothing()
    kept = connection.execute(insert, execution_options=_COUNTED)
    if kept.rowcount == 0:
        # Whoever charged it can no longer give it back: it pays for this answer too.
        connection.execute(update(charges).where(*_same(charge)).values(at_us=charges.c.at_us + 1))
        return None
    rows = Rows(charge.forward, charge.backward)
    return budgets.take(database, connection, charge.principal, charge.model, rows, rows, limits, now)


def give_back_for(database: Database, connection: Connection, charge: ChargeRecord, lease: Lease) -> None:
    """Returns the rows of a charge and forgets it, unless another server has asked for the same since."""
    forgotten = connection.execute(delete(charges).where(*_same(charge), charges.c.at_us == charge.at_us))
    if forgotten.rowcount:
        budgets.give_back(database, connection, lease, lease.rows)


def prune(connection: Connection, before_us: int) -> int:
    """Forgets what was charged before a moment, and writers that have been silent since. Returns how many charges."""
    connection.execute(delete(writers).where(writers.c.at_us < before_us))
    return connection.execute(delete(charges).where(charges.c.at_us < before_us)).rowcount


def forget(connection: Connection, before_us: int, most: int) -> int:
    """Removes the earliest calls that began before a moment. Returns how many; none: there are no more, or others remove them."""
    earliest = select(calls.c.id).where(calls.c.at_us < before_us).order_by(calls.c.at_us).limit(most)
    earliest = earliest.with_for_update(skip_locked=True)  # each of several its own; SQLite lets one write at a time
    return connection.execute(delete(calls).where(calls.c.id.in_(earliest))).rowcount


def _conditions(wanted: CallFilter) -> list[ColumnElement[bool]]:
    named = ("principal", "model", "operation", "outcome")
    conditions: list[ColumnElement[bool]] = [
        calls.c[name] == getattr(wanted, name) for name in named if getattr(wanted, name) is not None
    ]
    if wanted.since is not None:
        conditions.append(calls.c.at_us >= microseconds(wanted.since))
    if wanted.until is not None:
        conditions.append(calls.c.at_us < microseconds(wanted.until))
    return conditions


def _insert(database: Database, connection: Connection, begin: str, rows: Sequence[tuple[Any, ...]], end: str = "") -> int:
    """Inserts rows, and returns how many were.

    As the driver takes them: SQLAlchemy's own way takes twice as long (measured), and calls are what there are most of. Many in a
    statement: SQLite's driver lets other threads run at each, and with a statement a row the one that writes and the one that
    answers calls kept taking turns, which cost each call of a busy server 8 to 12 % more (measured without a network).
    """
    row = f"({', '.join(('?' if database.sqlite else '%s',) * len(rows[0]))})"
    inserted = 0
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[at : at + _ROWS_AT_ONCE]
        values = tuple(value for one in part for value in one)
        statement = f"{begin} {', '.join((row,) * len(part))} {end}"
        inserted += connection.exec_driver_sql(statement, values, execution_options=_COUNTED).rowcount
    return inserted


def _use(database: Database, connection: Connection, batch: Sequence[CallRecord]) -> None:
    sums: dict[tuple[str, str], Rows] = {}
    for call in batch:
        key = (_storable(call.principal), _storable(call.model))
        sums[key] = sums.get(key, Rows()) + Rows(call.forward, call.backward)
    insert = database.insert(usage)
    adding = insert.on_conflict_do_update(
        index_elements=["principal", "model"],
        set_={name: usage.c[name] + insert.excluded[name] for name in ("used_forward", "used_backward")},
    )
    # In order, so that servers that write at the same time wait for, and not upon, each other.
    rows = [
        {"principal": principal, "model": model, "used_forward": sums[principal, model].forward,
         "used_backward": sums[principal, model].backward}
        for principal, model in sorted(sums)
    ]  # fmt: skip
    connection.execute(adding, rows)


def _book(
    database: Database, connection: Connection, charged: Iterable[ChargeRecord]
) -> tuple[list[ChargeRecord], list[ChargeRecord]]:
    """Keeps charges. Returns those that were kept before, and of these those whose rows another call of the ledger holds."""
    first: dict[_Key, ChargeRecord] = {}
    again = [charge for charge in charged if first.setdefault(_key(charge), charge) is not charge]
    if not first:
        return [], []
    # In order, so that servers that write at the same time wait for, and not upon, each other.
    ordered = sorted(first)
    with connection.begin_nested() as attempt:
        # As a rule none is there, and to ask which takes three times as long (measured).
        values = [(*key, first[key].forward, first[key].backward, first[key].at_us, True) for key in ordered]
        if _insert(database, connection, _INSERT_CHARGES, values, "ON CONFLICT DO NOTHING") == len(values):
            return again, again
        attempt.rollback()
    new = database.insert(charges).on_conflict_do_nothing().returning(*_KEY)
    kept = {_key(row) for row in connection.execute(new, [_kept(first[key], booked=True) for key in ordered])}
    there = [key for key in ordered if key not in kept]
    if there:
        booking = update(charges).where(tuple_(*_KEY).in_(there), charges.c.booked.is_(False)).values(booked=True).returning(*_KEY)
        kept |= {_key(row) for row in connection.execute(booking)}
    booked = [first[key] for key in there if key not in kept]
    return [*(first[key] for key in there), *again], [*booked, *again]


def _without(batch: Sequence[CallRecord], booked: Iterable[ChargeRecord]) -> list[CallRecord]:
    """The calls without the rows of ``booked``."""
    left: defaultdict[tuple[str, str, str], Rows] = defaultdict(Rows)
    for charge in booked:
        left[charge[:3]] += Rows(charge.forward, charge.backward)
    changed = []
    for call in batch:
        key = (call.principal, call.model, call.request_id)
        if key in left:
            paid = Rows(call.forward, call.backward)
            less = left[key].at_most(paid)
            left[key] -= less
            call = call._replace(forward=paid.forward - less.forward, backward=paid.backward - less.backward)
        changed.append(call)
    return changed


def _give_back(database: Database, connection: Connection, there: Iterable[ChargeRecord]) -> None:
    """Returns what was taken of leases for charges that were paid already."""
    for charge in sorted((charge for charge in there if charge.lease is not None), key=_key):
        assert charge.lease is not None
        # What a lease has none of is not counted.
        budgets.give_back(database, connection, charge.lease, Rows(charge.forward, charge.backward).at_most(charge.lease.rows))


def _key(charge: Any) -> _Key:
    return charge.principal, charge.model, _storable(charge.request_id), bytes(charge.digest)


def _same(charge: ChargeRecord) -> list[ColumnElement[bool]]:
    return [column == value for column, value in zip(_KEY, _key(charge), strict=True)]


def _kept(charge: ChargeRecord, booked: bool) -> Mapping[str, Any]:
    """What of a charge is in its table."""
    columns = {name: value for name, value in charge._asdict().items() if name in charges.c}
    return {**columns, "request_id": _storable(charge.request_id), "booked": booked}


def _values(call: CallRecord) -> tuple[Any, ...]:
    """Of its texts, two are callers' own."""
    if "\0" in call.model or "\0" in call.request_id:
        call = call._replace(model=_storable(call.model), request_id=_storable(call.request_id))
    return tuple(call)


def _storable(text: str) -> str:
    """PostgreSQL's texts hold no NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text
