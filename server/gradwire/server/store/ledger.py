"""The ledger of calls, what it sums up to, and what was charged under which request id.

A batch is there whole or not at all, and once however often it is tried: usage is always the sum of the ledger. What two servers
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
from gradwire.server.usage import Rows

_FIELDS = [calls.c[name] for name in CallRecord._fields]
_TEXTS = [index for index, column in enumerate(_FIELDS) if column.type.python_type is str]
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
        charged: What is now charged under request ids; of several under one, the most of each direction counts.
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
    twice = _charge(database, connection, charged)
    if twice:
        batch = _without(batch, twice)
        _give_back(database, connection, twice)
    if batch:
        connection.execute(calls.insert(), [_values(call) for call in batch])
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
    insert = database.insert(charges).values(_kept(charge)).on_conflict_do_nothing()
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


def _charge(database: Database, connection: Connection, charged: Iterable[ChargeRecord]) -> list[ChargeRecord]:
    """Keeps charges, and returns those that were there already, with the rows that have now been charged twice."""
    most: dict[_Key, ChargeRecord] = {}
    twice: list[ChargeRecord] = []
    for charge in charged:
        key = _key(charge)
        before = most.get(key)
        if before is not None:
            twice.append(_common(charge, before))
            charge = charge._replace(forward=max(charge.forward, before.forward), backward=max(charge.backward, before.backward))
        most[key] = charge
    if not most:
        return twice
    new = database.insert(charges).on_conflict_do_nothing().returning(*_KEY)
    # In order, so that servers that write at the same time wait for, and not upon, each other.
    kept = {_key(row) for row in connection.execute(new, [_kept(most[key]) for key in sorted(most)])}
    there = {key: charge for key, charge in most.items() if key not in kept}
    if there:
        for row in connection.execute(select(charges).where(tuple_(*_KEY).in_(list(there)))):
            twice.append(_common(there[_key(row)], row))
        insert = database.insert(charges)
        greater = {name: _greater(database)(charges.c[name], insert.excluded[name]) for name in ("forward", "backward", "at_us")}
        raising = insert.on_conflict_do_update(index_elements=[column.name for column in _KEY], set_=greater)
        connection.execute(raising, [_kept(there[key]) for key in sorted(there)])
    return [charge for charge in twice if charge.lease is not None]


def _common(charge: ChargeRecord, other: Any) -> ChargeRecord:
    """A charge with the rows that another one has charged too."""
    return charge._replace(forward=min(charge.forward, other.forward), backward=min(charge.backward, other.backward))


def _without(batch: Sequence[CallRecord], twice: Sequence[ChargeRecord]) -> list[CallRecord]:
    """The calls that were charged under the ids of ``twice``, without its rows."""
    left: defaultdict[tuple[str, str, str], Rows] = defaultdict(Rows)
    for charge in twice:
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


def _give_back(database: Database, connection: Connection, twice: Sequence[ChargeRecord]) -> None:
    for charge in sorted(twice, key=_key):
        assert charge.lease is not None
        # What a lease has none of is not counted.
        budgets.give_back(database, connection, charge.lease, Rows(charge.forward, charge.backward).at_most(charge.lease.rows))


def _key(charge: Any) -> _Key:
    return charge.principal, charge.model, _storable(charge.request_id), bytes(charge.digest)


def _same(charge: ChargeRecord) -> list[ColumnElement[bool]]:
    return [column == value for column, value in zip(_KEY, _key(charge), strict=True)]


def _kept(charge: ChargeRecord) -> Mapping[str, Any]:
    """What of a charge is in its table."""
    return {**{column.name: getattr(charge, column.name) for column in charges.c}, "request_id": _storable(charge.request_id)}


def _greater(database: Database) -> Any:
    return func.max if database.sqlite else func.greatest


def _values(call: CallRecord) -> dict[str, Any]:
    values = call._asdict()
    for index in _TEXTS:
        name = CallRecord._fields[index]
        values[name] = _storable(values[name])
    return values


def _storable(text: str) -> str:
    """PostgreSQL's texts hold no NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text
