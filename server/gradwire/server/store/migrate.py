"""Brings a database's tables to what this program knows, whoever else tries the same at the same time.

All happens in one transaction that holds a lock, and is there whole or not at all. Alembic is imported only where there is an
older database to migrate: it takes as long as SQLAlchemy itself. An empty one gets the tables as they are now, at once.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, String, Table, inspect, select, text

from gradwire.server.errors import StoreConfigError
from gradwire.server.store import schema
from gradwire.server.store.database import Database
from gradwire.server.store.translation import shown

MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x67726164
"""PostgreSQL's advisory locks are numbers; this one is ours."""
# Alembic's own table, as it would make it.
_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def migrate(database: Database, *, create: bool = True) -> None:
    """Makes the tables, or brings them from an older version to this one's.

    Args:
        database: Of any version, or empty.
        create: Whether it may be changed.

    Raises:
        StoreConfigError: It is of a newer version, or holds something else; or it is not of this one, and may not be changed.
        StoreUnavailable: The database does not work.
    """
    with database.read() as connection:
        found = _found(connection)
    if found == schema.VERSION:
        return
    if not create:
        raise StoreConfigError(
            f"the store {shown(database.url)} is {_told(found)}, and this program's is {schema.VERSION}; start a server on it "
            "once, which migrates it"
        )
    database.write(lambda connection: _locked(database, connection))


def _locked(database: Database, connection: Connection) -> None:
    if not database.sqlite:
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
    # Another server may have done it while this one waited.
    found = _found(connection)
    if found == schema.VERSION:
        return
    if found is not None:
        _upgrade(database, connection, found)
        return
    present = {table for table in schema.metadata.tables if inspect(connection).has_table(table)}
    if present:
        raise StoreConfigError(
            f"the store {shown(database.url)} has tables of another program ({', '.join(sorted(present))}); name an empty database"
        )
    schema.metadata.create_all(connection, checkfirst=False)
    # It is there, and empty, where all migrations were undone.
    _version.create(connection, checkfirst=True)
    connection.execute(_version.insert().values(version_num=schema.VERSION))


def _upgrade(database: Database, connection: Connection, found: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found not in known:
        raise StoreConfigError(
            f"the store {shown(database.url)} is of version {found}, which is newer than this program's, {schema.VERSION}; "
            "install the gradwire that made it, or a newer one"
        )
    command.upgrade(config, "head")


def _found(connection: Connection) -> str | None:
    """The version of the tables; None if there are none."""
    if not inspect(connection).has_table(_version.name):
        return None
    return connection.scalar(select(_version.c.version_num))


def _told(found: str | None) -> str:
    return "empty" if found is None else f"of version {found}"
