"""One database: connections to it, and transactions on it that are exact on SQLite and PostgreSQL alike.

A write transaction on SQLite begins with the write lock, so that what it reads is still true when it writes; on PostgreSQL the
rows that it goes by are locked by what reads them. Whatever the database raises leaves here as StoreUnavailable.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, event
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from gradwire.server.errors import StoreConfigError, StoreUnavailable
from gradwire.server.store.translation import broken_off, retryable, shown, unavailable

T = TypeVar("T")

LOCK_TIMEOUT_S = 10.0
"""A lock that is held longer than this is not waited for. A batch of the ledger holds one for milliseconds."""
_ATTEMPTS = 10
"""Of a transaction that the database undoes because of others. Each attempt, somebody gets through."""
_WRITES = "gradwire_writes"
_EXPECTED = "expected sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"


class Database:
    """Thread-safe. A connection is made when one is needed, and again after it was lost."""

    def __init__(self, url: str | URL, *, create: bool = True) -> None:
        """Connects to nothing yet.

        Args:
            url: ``sqlite:///FILE`` or ``postgresql+psycopg://USER@HOST/DATABASE``.
            create: Whether a SQLite file that is not there is made, for its owner alone, with its folder.

        Raises:
            StoreConfigError: The URL is wrong, or there is no such file to be opened, or a driver is missing.
        """
        self.url = checked_url(url)
        self._file: Path | None = None
        self._inode: int | None = None
        self._writing: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.sqlite:
            self._file = Path(str(self.url.database)).absolute()
            self._inode = _made(self._file, create)
            # SQLite's own waiting is polling, up to 0.1 s at a time; threads of one process can do better.
            self._writing = threading.Lock()
        self.engine = _sqlite_engine(self.url) if self.sqlite else _postgresql_engine(self.url)

    @property
    def sqlite(self) -> bool:
        """Or else PostgreSQL."""
        return self.url.get_backend_name() == "sqlite"

    def insert(self, table: Table) -> Any:
        """An INSERT of this dialect, which has ON CONFLICT."""
        return sqlite_insert(table) if self.sqlite else postgresql_insert(table)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work`` in a transaction, and again if the database undid it because of another one."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
            committing = False
            try:
                self._check_file()
                with self._writing, self.engine.connect() as connection:
                    connection = connection.execution_options(**{_WRITES: True})
                    transaction = connection.begin()
                    try:
                        result = work(connection)
                        committing = True
                        transaction.commit()
                    except BaseException:
                        with contextlib.suppress(SQLAlchemyError):
                            transaction.rollback()
                        raise
                    return result
            except SQLAlchemyError as e:
                if not retryable(e) or attempt + 1 == _ATTEMPTS:
                    raise self._told(e, uncertain=committing and broken_off(e)) from e
        raise AssertionError("the last attempt returns or raises")

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads; on SQLite, all of it from one moment."""
        try:
            self._check_file()
            with self.engine.connect() as connection:
                yield connection
        except SQLAlchemyError as e:
            raise self._told(e) from e

    def close(self) -> None:
        """Ends all connections that are not in use."""
        self.engine.dispose()

    def _told(self, error: SQLAlchemyError, *, uncertain: bool = False) -> Exception:
        """A wrong statement or value is a mistake of ours, and not the database's."""
        if isinstance(error, SQLAlchemyError) and _is_a_mistake(error):
            return error
        return unavailable(error, self.url, uncertain=uncertain)

    def _check_file(self) -> None:
        """SQLite goes on writing into a file that has been removed, and all would be lost at the end."""
        if self._file is None:
            return
        try:
            same = os.stat(self._file).st_ino == self._inode
        except OSError:
            same = False
        if not same:
            raise StoreUnavailable(
                f"the store {shown(self.url)} is not available: its file was removed or replaced while the server runs; "
                "put it back if you can, and restart the server"
            )


def checked_url(url: str | URL) -> URL:
    """A URL that the store can be opened with; ``postgresql://`` means the driver psycopg. Raises StoreConfigError."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StoreConfigError(f"the store's URL cannot be read; {_EXPECTED}") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise StoreConfigError(f"the store {shown(parsed)} is of a kind that is not supported; {_EXPECTED}")
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise StoreConfigError(f"the store {shown(parsed)} names no file, and would be forgotten with the process; {_EXPECTED}")
    elif find_spec("psycopg") is None:
        raise StoreConfigError(f"the store {shown(parsed)} needs psycopg, which is not installed: pip install 'gradwire[postgres]'")
    return parsed


def _made(file: Path, create: bool) -> int:
    """The inode of a file that is there, or is made with its folder. What SQLite puts beside it gets the same mode."""
    try:
        if create:
            file.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        if not file.is_file():
            raise StoreConfigError(f"the store's file {file} is not there; a server makes it when it starts, or name another one")
        return os.stat(file).st_ino
    except OSError as e:
        raise StoreConfigError(f"the store's file {file} cannot be opened: {e.strerror}; name one that this user can write") from e


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": LOCK_TIMEOUT_S, "check_same_thread": False}, pool_timeout=LOCK_TIMEOUT_S)

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        # Transactions are begun below: the driver would begin them only before the first change.
        connection.isolation_level = None
        mode = _write_ahead(connection)
        if mode != "wal":
            connection.close()
            raise StoreConfigError(
                f"the store {shown(url)} is on a file system that SQLite's write-ahead log does not work on ({mode}), "
                "a network share perhaps; name a file on a local disk, or a PostgreSQL database"
            )
        # A call that was answered stays charged, also after a power cut.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA journal_size_limit={64 << 20}")

    @event.listens_for(engine, "begin")
    def _(connection: Connection) -> None:
        if connection.get_execution_options().get(_WRITES):
            _begin_to_write(connection)
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


def _begin_to_write(connection: Connection) -> None:
    """Takes SQLite's write lock. SQLite itself looks for it every 0.1 s, and a busy process starves another one so (measured)."""
    raw: Any = connection.connection.dbapi_connection
    until = time.monotonic() + LOCK_TIMEOUT_S
    raw.execute("PRAGMA busy_timeout=0")
    try:
        while time.monotonic() < until:
            try:
                raw.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as e:
                if "locked" not in str(e):
                    break
            time.sleep(random.uniform(0.0002, 0.002))
        # Once more, for an error that SQLAlchemy has wrapped.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        raw.execute(f"PRAGMA busy_timeout={LOCK_TIMEOUT_S * 1000:.0f}")


def _write_ahead(connection: Any) -> str:
    """Turns the write-ahead log on, which stays with the file. SQLite does not wait for its lock here, so we do."""
    until = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
            return mode if mode == "wal" else str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except Exception as e:
            if "locked" not in str(e) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _postgresql_engine(url: URL) -> Engine:
    """What the URL says of these settings goes first."""
    limits = {
        "statement_timeout": "15s",
        "lock_timeout": f"{LOCK_TIMEOUT_S * 1000:.0f}ms",
        "idle_in_transaction_session_timeout": "60s",
    }
    settings = {
        "connect_timeout": 5,
        "application_name": "gradwire",
        # A host that vanished is noticed in seconds.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "options": " ".join(f"-c {name}={value}" for name, value in limits.items()),
    }
    return create_engine(
        url,
        connect_args={key: value for key, value in settings.items() if key not in url.query},
        # One for budgets, one for the ledger, one for grants; an export has its own process.
        pool_size=3,
        max_overflow=3,
        pool_timeout=LOCK_TIMEOUT_S,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
    )


def _is_a_mistake(error: SQLAlchemyError) -> bool:
    """Wrong SQL or a value that the database cannot hold: nothing that the database could do about."""
    from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError, StatementError

    if isinstance(error, ProgrammingError):
        # A table that somebody dropped, or a right that somebody took, is the database's state.
        return not str(getattr(error.orig, "sqlstate", "") or "").startswith("42")
    return isinstance(error, (DataError, IntegrityError)) or type(error) is StatementError
