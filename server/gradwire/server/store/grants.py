"""Table of grants, with a generation number that every change raises, so that servers notice it."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, Row, delete, select

from gradwire.backends.capabilities import Operation
from gradwire.server.store.database import Database
from gradwire.server.store.records import StoredGrant, StoredGrants, microseconds, moment
from gradwire.server.store.schema import generation, grants
from gradwire.server.values.access import AccessLevel

_PLAIN = [field.name for field in fields(StoredGrant) if field.name not in ("access", "operations", "expires_at", "updated_at")]


def changes(connection: Connection) -> int:
    """Returns the generation: the number of changes of grants."""
    return connection.scalar(select(generation.c.changes)) or 0


def all_grants(connection: Connection) -> StoredGrants:
    """Returns all grants, including revoked ones, sorted by name."""
    # The number is read first: a change in between is then seen twice, and none is missed.
    number = changes(connection)
    found = connection.execute(select(grants).order_by(grants.c.principal, grants.c.model))
    return StoredGrants(number, tuple(_grant(row) for row in found))


def put(database: Database, connection: Connection, grant: StoredGrant, now: datetime) -> None:
    """Adds a grant, or replaces the one of the same principal and model."""
    values: dict[str, Any] = {name: getattr(grant, name) for name in _PLAIN}
    values["access"] = grant.access
    values["operations"] = None if grant.operations is None else ",".join(sorted(operation.value for operation in grant.operations))
    values["expires_at_us"] = None if grant.expires_at is None else microseconds(grant.expires_at)
    values["updated_at_us"] = microseconds(now)
    statement = database.insert(grants).values(values)
    connection.execute(statement.on_conflict_do_update(index_elements=["principal", "model"], set_=values))
    _count(database, connection)


def forget(database: Database, connection: Connection, principal: str, model: str) -> bool:
    """Removes the grant or revocation of a principal and model; True if one existed."""
    found = connection.execute(delete(grants).where(grants.c.principal == principal, grants.c.model == model)).rowcount > 0
    if found:
        _count(database, connection)
    return found


def _count(database: Database, connection: Connection) -> None:
    statement = database.insert(generation).values(id=1, changes=1)
    connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_={"changes": generation.c.changes + 1}))


def _grant(row: Row[Any]) -> StoredGrant:
    return StoredGrant(
        **{name: getattr(row, name) for name in _PLAIN},
        access=cast(AccessLevel, row.access),
        operations=None if row.operations is None else frozenset(map(Operation, row.operations.split(","))),
        expires_at=None if row.expires_at_us is None else moment(row.expires_at_us),
        updated_at=moment(row.updated_at_us),
    )
