"""Budgets: leases of rows, taken whole or not at all, and returns of unused rows.

The rows taken, in total and in each window, never exceed the limit that they were taken under, however many servers take
rows at the same time. A clock that steps back never reopens a window. Returned rows go only to the total and window of their lease.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, select, update

from gradwire.server.errors import BudgetShort
from gradwire.server.store.database import Database
from gradwire.server.store.records import BudgetLimits, Lease, Taken
from gradwire.server.store.schema import budgets
from gradwire.server.values.rows import Rows

_TOTAL = ""
_DIRECTIONS: tuple[Literal["forward"], Literal["backward"]] = ("forward", "backward")


def take(
    database: Database,
    connection: Connection,
    principal: str,
    model: str,
    least: Rows,
    wish: Rows,
    limits: BudgetLimits,
    now: float,
) -> Lease:
    """Takes the wished rows, but at most half of those left unless the call needs more. Raises BudgetShort."""
    if min(least.forward, least.backward, wish.forward, wish.backward) < 0:
        raise ValueError(f"least is {least} and wish {wish}; expected 0 or more rows")
    total = _locked(database, connection, principal, model, _TOTAL)
    taken = Rows(total.taken_forward, total.taken_backward)
    start, in_window = 0, Rows()
    if limits.window_s is not None:
        start, in_window = _window(database, connection, principal, model, limits.window_s, now)
    room = _room(_bounds(limits, taken, in_window, start), least)
    got = {}
    for direction, left in room.items():
        needed, wished = getattr(least, direction), getattr(wish, direction)
        # Near the end no server holds the last rows, which others could use.
        got[direction] = max(needed, wished if left == math.inf else min(wished, int(left) // 2))
    rows = Rows(got["forward"], got["backward"])
    _set(connection, principal, model, _TOTAL, taken + rows)
    if limits.window_s is not None:
        _set(connection, principal, model, str(limits.window_s), in_window + rows, start)
    return Lease(principal, model, rows, limits.window_s, start, total.restocks)


def check(connection: Connection, principal: str, model: str, least: Rows, limits: BudgetLimits, now: float) -> None:
    """Raises BudgetShort if ``least`` cannot be taken now."""
    there = taken(connection, principal, model, limits.window_s, now)
    _room(_bounds(limits, there.total, there.window, there.window_start), least)


def give_back(database: Database, connection: Connection, lease: Lease, rows: Rows) -> None:
    """Returns rows of a lease to the total, and to its window if that has not ended."""
    if not (0 <= rows.forward <= lease.rows.forward and 0 <= rows.backward <= lease.rows.backward):
        raise ValueError(f"cannot return {rows} of a lease of {lease.rows}; expected between 0 rows and the rows of the lease")
    total = _locked(database, connection, lease.principal, lease.model, _TOTAL)
    if total.restocks != lease.restocks:
        # The budget was restocked without these rows; with them it would exceed its limit.
        return
    _set(connection, lease.principal, lease.model, _TOTAL, Rows(total.taken_forward, total.taken_backward) - rows)
    if lease.window_s is not None:
        window = _locked(database, connection, lease.principal, lease.model, str(lease.window_s))
        if window.window_start == lease.window_start:
            there = Rows(window.taken_forward, window.taken_backward)
            _set(connection, lease.principal, lease.model, str(lease.window_s), there - rows, window.window_start)


def restock(database: Database, connection: Connection, principal: str, model: str) -> None:
    """Makes a budget full again, including its windows. Servers keep their leases."""
    _locked(database, connection, principal, model, _TOTAL)
    here = (budgets.c.principal == principal) & (budgets.c.model == model)
    connection.execute(update(budgets).where(here).values(taken_forward=0, taken_backward=0, restocks=budgets.c.restocks + 1))


def taken(connection: Connection, principal: str, model: str, window_s: int | None, now: float) -> Taken:
    """Returns the rows taken from a budget."""
    here = (budgets.c.principal == principal) & (budgets.c.model == model)
    return _taken(connection.execute(select(budgets).where(here)), window_s, now)


def taken_of(connection: Connection, windows: Mapping[tuple[str, str], int | None], now: float) -> dict[tuple[str, str], Taken]:
    """Returns the rows taken from many budgets, by principal and model, in one query."""
    rows: dict[tuple[str, str], list[Row[Any]]] = {key: [] for key in windows}
    for row in connection.execute(select(budgets)):
        if (row.principal, row.model) in rows:
            rows[row.principal, row.model].append(row)
    return {key: _taken(rows[key], window_s, now) for key, window_s in windows.items()}


def _taken(found: Iterable[Row[Any]], window_s: int | None, now: float) -> Taken:
    total, window, start = Rows(), Rows(), 0
    if window_s is not None:
        start = _start(window_s, now)
    for row in found:
        rows = Rows(row.taken_forward, row.taken_backward)
        if row.period == _TOTAL:
            total = rows
        elif row.period == str(window_s) and row.window_start >= start:
            window, start = rows, row.window_start
    return Taken(total, window, start)


class _Bound(NamedTuple):
    """Rows taken under one limit: the total, or a window."""

    window_s: int | None
    taken: Rows
    limit: dict[str, int | None]
    refills_at: float | None


def _bounds(limits: BudgetLimits, total: Rows, in_window: Rows, window_start: int) -> list[_Bound]:
    bounds = [_Bound(None, total, _limits(limits.max_forward, limits.max_backward), None)]
    if limits.window_s is not None:
        of_window = _limits(limits.window_forward, limits.window_backward)
        bounds.append(_Bound(limits.window_s, in_window, of_window, window_start + limits.window_s))
    return bounds


def _room(bounds: list[_Bound], least: Rows) -> dict[Literal["forward", "backward"], float]:
    """Returns the rows that can be taken, by direction. Raises BudgetShort if they are fewer than needed."""
    room: dict[Literal["forward", "backward"], float] = {}
    for direction in _DIRECTIONS:
        needed, left = getattr(least, direction), math.inf
        for bound in bounds:
            limit = bound.limit[direction]
            if limit is None:
                continue
            here = max(0, limit - getattr(bound.taken, direction))
            if needed > here:
                raise BudgetShort(
                    window_s=bound.window_s, direction=direction, limit=limit, left=here, needed=needed, refills_at=bound.refills_at
                )
            left = min(left, here)
        room[direction] = left
    return room


def _window(database: Database, connection: Connection, principal: str, model: str, window_s: int, now: float) -> tuple[int, Rows]:
    """Returns the start of the current window, and the rows taken in it."""
    row = _locked(database, connection, principal, model, str(window_s))
    start = _start(window_s, now)
    if start > row.window_start:
        return start, Rows()
    return row.window_start, Rows(row.taken_forward, row.taken_backward)


def _start(window_s: int, now: float) -> int:
    return math.floor(now / window_s) * window_s


def _limits(forward: int | None, backward: int | None) -> dict[str, int | None]:
    return {"forward": forward, "backward": backward}


def _locked(database: Database, connection: Connection, principal: str, model: str, period: str) -> Row[Any]:
    """Returns a budget's row, created if missing, locked until the transaction ends."""
    key = {"principal": principal, "model": model, "period": period}
    query = select(budgets).filter_by(**key).with_for_update()
    found = connection.execute(query).one_or_none()
    if found is None:
        first = {"window_start": 0, "taken_forward": 0, "taken_backward": 0, "restocks": 0}
        connection.execute(database.insert(budgets).values(**key, **first).on_conflict_do_nothing())
        found = connection.execute(query).one()
    return found


def _set(connection: Connection, principal: str, model: str, period: str, rows: Rows, window_start: int = 0) -> None:
    statement = update(budgets).filter_by(principal=principal, model=model, period=period)
    connection.execute(statement.values(taken_forward=rows.forward, taken_backward=rows.backward, window_start=window_start))
