"""Migration of a database's tables to this program's version, safe for concurrent servers.

A migration is one transaction under a lock, and is applied completely or not at all. Alembic is imported only to migrate an
older database: it takes as long as SQLAlchemy itself. An empty database gets the current tables directly.
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
"""Number of gradwire's advisory lock in PostgreSQL."""
# Alembic's table, as Alembic creates it.
_version = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def migrate(database: Database, *, create: bool = True) -> None:
    """Creates the tables, or migrates them from an older version.

    Args:
        database: Database of any version, or empty.
        create: Allows changes to the database.

    Raises:
        StoreConfigError: The database is of a newer version or another program, or may not be changed and is not current.
        StoreUnavailable: The database does not work.
    """
    with database.read() as connection:
        found = _found(connection)
    if found == schema.VERSION:
        return
    if not create:
        raise StoreConfigError(
            f"the store {shown(database.url)} is {_described(found)}, and this program needs {schema.VERSION}; start a server on "
            "it once, which migrates it"
        )
    database.write(lambda connection: _locked(database, connection))


def _locked(database: Database, connection: Connection) -> None:
    if not database.sqlite:
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK})
    # Another server may have migrated it while this one waited.
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
    # The table exists, and is empty, where all migrations were undone.
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
            "install the version of gradwire that made it, or a newer one"
        )
    command.upgrade(config, "head")


def _found(connection: Connection) -> str | None:
    """Returns the version of the tables; None if there are none."""
    if not inspect(connection).has_table(_version.name):
        return None
    return connection.scalar(select(_version.c.version_num))


def _described(found: str | None) -> str:
    return "empty" if found is None else f"of version {found}"
