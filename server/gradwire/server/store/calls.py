"""Queries of the ledger: its calls, their sums as usage, and charges by request id.

A batch is written completely or not at all, and once however often it is retried: usage is always the sum of the ledger,
including calls that were removed because of their age. If two servers charge the same block under one request id, it is
charged once when both have written it: the second server's call is written without those rows, which are refunded to the budget.
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
"""Rows in one statement; SQLite before 3.32 allows 999 values."""
_BATCH = 5000
_KEY = (charges.c.principal, charges.c.model, charges.c.request_id, charges.c.digest)
_Key: TypeAlias = tuple[str, str, str, bytes]
_COUNTED = {"preserve_rowcount": True}
"""Option without which SQLAlchemy does not return the number of rows of an INSERT on PostgreSQL."""


def write(
    database: Database,
    connection: Connection,
    batch: Sequence[CallRecord],
    charged: Iterable[ChargeRecord],
    writer: str,
    number: int,
    now_us: int,
) -> bool:
    """Writes a batch, unless it is written already; True if it was not.

    Args:
        database: The database.
        connection: A transaction that writes.
        batch: Calls, in any order.
        charged: Charges of the calls under request ids.
        writer: Unique name of the writer.
        number: Number of the batch, greater than those before.
        now_us: Time now, microseconds since the epoch.
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
    """Returns the query for the calls that match a filter, earliest first."""
    return select(*_FIELDS).where(*_conditions(wanted)).order_by(calls.c.at_us, calls.c.id)


def batches(connection: Connection, wanted: CallFilter) -> Iterator[list[CallRecord]]:
    """Yields calls in batches as the database sends them, in constant memory."""
    with connection.execution_options(yield_per=_BATCH).execute(select_calls(wanted)) as result:
        for rows in result.partitions():
            yield [CallRecord._make(row) for row in rows]


def last_calls(connection: Connection, wanted: CallFilter, count: int) -> list[CallRecord]:
    """Returns the last calls that match a filter, latest first."""
    query = select(*_FIELDS).where(*_conditions(wanted)).order_by(calls.c.at_us.desc(), calls.c.id.desc()).limit(count)
    return [CallRecord._make(row) for row in connection.execute(query)]


def count_calls(connection: Connection, wanted: CallFilter) -> int:
    """Returns the number of calls that match a filter."""
    return connection.scalar(select(func.count()).select_from(calls).where(*_conditions(wanted))) or 0


def used(connection: Connection, principal: str | None, model: str | None) -> list[UsedRows]:
    """Returns the used rows by principal and model, sorted by name."""
    query = select(usage).order_by(usage.c.principal, usage.c.model)
    if principal is not None:
        query = query.where(usage.c.principal == principal)
    if model is not None:
        query = query.where(usage.c.model == model)
    found = connection.execute(query)
    return [UsedRows(row.principal, row.model, Rows(row.used_forward, row.used_backward)) for row in found]


def charged(connection: Connection, principal: str, model: str, request_id: str) -> dict[bytes, Rows]:
    """Returns the rows charged under a request id, by fingerprint."""
    query = select(charges).filter_by(principal=principal, model=model, request_id=_storable(request_id))
    return {bytes(row.digest): Rows(row.forward, row.backward) for row in connection.execute(query)}


def take_for(database: Database, connection: Connection, charge: ChargeRecord, limits: BudgetLimits, now: float) -> Lease | None:
    """Takes the rows of a charge and stores it, unless it exists. Raises BudgetShort."""
    # The charge is inserted first, so that of two servers with the same charge one waits for the other.
    insert = database.insert(charges).values(_kept(charge, booked=False)).on_conflict_do_nothing()
    kept = connection.execute(insert, execution_options=_COUNTED)
    if kept.rowcount == 0:
        # The server that charged it can no longer refund it: it pays for this answer too.
        connection.execute(update(charges).where(*_same(charge)).values(at_us=charges.c.at_us + 1))
        return None
    rows = Rows(charge.forward, charge.backward)
    return budgets.take(database, connection, charge.principal, charge.model, rows, rows, limits, now)


def give_back_for(database: Database, connection: Connection, charge: ChargeRecord, lease: Lease) -> None:
    """Refunds the rows of a charge and removes it, unless another server has requested the same since."""
    forgotten = connection.execute(delete(charges).where(*_same(charge), charges.c.at_us == charge.at_us))
    if forgotten.rowcount:
        budgets.give_back(database, connection, lease, lease.rows)


def prune(connection: Connection, before_us: int) -> int:
    """Removes charges before a time, and writers idle since then. Returns the number of charges."""
    connection.execute(delete(writers).where(writers.c.at_us < before_us))
    return connection.execute(delete(charges).where(charges.c.at_us < before_us)).rowcount


def forget(connection: Connection, before_us: int, most: int) -> int:
    """Removes the earliest calls before a time. Returns their number; 0: none is left, or others remove them."""
    earliest = select(calls.c.id).where(calls.c.at_us < before_us).order_by(calls.c.at_us).limit(most)
    earliest = earliest.with_for_update(skip_locked=True)  # concurrent removals take different calls; SQLite has one writer
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
    """Inserts rows, and returns the number of inserted ones.

    It passes rows directly to the driver: SQLAlchemy's own method takes twice as long (measured), and calls are the most frequent
    rows. Each statement has many rows: SQLite's driver releases the interpreter at each statement, and with one row per
    statement the thread that writes and the one that answers calls alternated, which cost each call of a busy server 8 to
    12 % more (measured without a network).
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
    # Sorted, so that servers that write at the same time cannot deadlock.
    rows = [
        {"principal": principal, "model": model, "used_forward": sums[principal, model].forward,
         "used_backward": sums[principal, model].backward}
        for principal, model in sorted(sums)
    ]  # fmt: skip
    connection.execute(adding, rows)


def _book(
    database: Database, connection: Connection, charged: Iterable[ChargeRecord]
) -> tuple[list[ChargeRecord], list[ChargeRecord]]:
    """Stores charges. Returns those stored before, and those of them whose rows another call of the ledger has."""
    first: dict[_Key, ChargeRecord] = {}
    again = [charge for charge in charged if first.setdefault(_key(charge), charge) is not charge]
    if not first:
        return [], []
    # Sorted, so that servers that write at the same time cannot deadlock.
    ordered = sorted(first)
    with connection.begin_nested() as attempt:
        # Usually none is stored yet, and a query for them takes three times as long (measured).
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
    """Returns the calls without the rows of ``booked``."""
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
    """Refunds to leases the rows of charges that were paid already."""
    for charge in sorted((charge for charge in there if charge.lease is not None), key=_key):
        assert charge.lease is not None
        # Rows that the lease does not limit are not counted.
        budgets.give_back(database, connection, charge.lease, Rows(charge.forward, charge.backward).at_most(charge.lease.rows))


def _key(charge: Any) -> _Key:
    return charge.principal, charge.model, _storable(charge.request_id), bytes(charge.digest)


def _same(charge: ChargeRecord) -> list[ColumnElement[bool]]:
    return [column == value for column, value in zip(_KEY, _key(charge), strict=True)]


def _kept(charge: ChargeRecord, booked: bool) -> Mapping[str, Any]:
    """Returns the columns of a charge in its table."""
    columns = {name: value for name, value in charge._asdict().items() if name in charges.c}
    return {**columns, "request_id": _storable(charge.request_id), "booked": booked}


def _values(call: CallRecord) -> tuple[Any, ...]:
    """Returns the values of a call; the two texts of the caller without NUL."""
    if "\0" in call.model or "\0" in call.request_id:
        call = call._replace(model=_storable(call.model), request_id=_storable(call.request_id))
    return tuple(call)


def _storable(text: str) -> str:
    """Replaces NUL, which PostgreSQL's texts cannot hold."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text
