"""Connections and serialised transactions on SQLite or PostgreSQL.

A write transaction on SQLite begins with the write lock, so that its reads are still valid when it writes; on PostgreSQL
its reads lock the rows that it depends on. Errors of the database are raised as StoreUnavailable.
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
"""Longest wait for a lock. A batch of the ledger holds one for milliseconds."""
_ATTEMPTS = 10
"""Attempts at a transaction that the database rolls back because of others. Each round, at least one succeeds."""
_WRITES = "gradwire_writes"
_EXPECTED = "expected sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"


class Database:
    """A database, for any thread. Connections are opened on demand, and replaced after a loss."""

    def __init__(self, url: str | URL, *, create: bool = True) -> None:
        """Checks the URL, without connecting.

        Args:
            url: ``sqlite:///FILE`` or ``postgresql+psycopg://USER@HOST/DATABASE``.
            create: Creates a missing SQLite file, readable only by its owner, and its folder.

        Raises:
            StoreConfigError: The URL is invalid, the file does not exist, or a driver is missing.
        """
        self.url = checked_url(url)
        self._file: Path | None = None
        self._inode: int | None = None
        self._writing: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if self.sqlite:
            self._file = Path(str(self.url.database)).absolute()
            self._inode = _made(self._file, create)
            # SQLite waits by polling, up to 0.1 s at a time; a lock between threads of one process is faster.
            self._writing = threading.Lock()
        self.engine = _sqlite_engine(self.url) if self.sqlite else _postgresql_engine(self.url)

    @property
    def sqlite(self) -> bool:
        """True for SQLite, False for PostgreSQL."""
        return self.url.get_backend_name() == "sqlite"

    def insert(self, table: Table) -> Any:
        """Returns an INSERT of this dialect, with support for ON CONFLICT."""
        return sqlite_insert(table) if self.sqlite else postgresql_insert(table)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Runs ``work`` in a transaction, and retries it if the database rolls it back because of another one."""
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
                    raise self._translated(e, uncertain=committing and broken_off(e)) from e
        raise AssertionError("the last attempt returns or raises")

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Opens a read transaction; on SQLite, a snapshot."""
        try:
            self._check_file()
            with self.engine.connect() as connection:
                yield connection
        except SQLAlchemyError as e:
            raise self._translated(e) from e

    def close(self) -> None:
        """Closes all idle connections."""
        self.engine.dispose()

    def _translated(self, error: SQLAlchemyError, *, uncertain: bool = False) -> Exception:
        """Returns StoreUnavailable for an error of the database; invalid statements and values stay as they are."""
        if isinstance(error, SQLAlchemyError) and _is_bug(error):
            return error
        return unavailable(error, self.url, uncertain=uncertain)

    def _check_file(self) -> None:
        """Raises StoreUnavailable if the file was removed: SQLite would go on writing to it, and lose all at the end."""
        if self._file is None:
            return
        try:
            same = os.stat(self._file).st_ino == self._inode
        except OSError:
            same = False
        if not same:
            raise StoreUnavailable(
                f"the store {shown(self.url)} is not available: its file was removed or replaced while the server runs; "
                "restore it if possible, and restart the server"
            )


def checked_url(url: str | URL) -> URL:
    """Returns a valid URL of a store; ``postgresql://`` selects the driver psycopg. Raises StoreConfigError."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StoreConfigError(f"the store's URL is invalid; {_EXPECTED}") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise StoreConfigError(f"the store {shown(parsed)} is of an unsupported kind; {_EXPECTED}")
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
            raise StoreConfigError(f"the store {shown(parsed)} needs a file, or it would end with the process; {_EXPECTED}")
    elif find_spec("psycopg") is None:
        raise StoreConfigError(f"the store {shown(parsed)} needs psycopg, which is not installed: pip install 'gradwire[postgres]'")
    return parsed


def _made(file: Path, create: bool) -> int:
    """Returns the inode of a file, created with its folder if needed. SQLite creates its other files with the same mode."""
    try:
        if create:
            file.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        if not file.is_file():
            raise StoreConfigError(f"the store's file {file} does not exist; start a server, which creates it, or name another")
        return os.stat(file).st_ino
    except OSError as e:
        raise StoreConfigError(f"the store's file {file} cannot be opened: {e.strerror}; name one that this user can write") from e


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": LOCK_TIMEOUT_S, "check_same_thread": False}, pool_timeout=LOCK_TIMEOUT_S)

    @event.listens_for(engine, "connect")
    def _(connection: Any, _record: Any) -> None:
        # Transactions begin in the handler below: the driver would begin them only before the first change.
        connection.isolation_level = None
        mode = _write_ahead(connection)
        if mode != "wal":
            connection.close()
            raise StoreConfigError(
                f"the store {shown(url)} is on a file system without support for SQLite's write-ahead log ({mode}), "
                "perhaps a network share; name a file on a local disk, or a PostgreSQL database"
            )
        # An answered call stays charged even after a power failure.
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
    """Takes SQLite's write lock. SQLite itself polls every 0.1 s, so a busy process would starve others (measured)."""
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
        # A last attempt through SQLAlchemy, which wraps the error.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        raw.execute(f"PRAGMA busy_timeout={LOCK_TIMEOUT_S * 1000:.0f}")


def _write_ahead(connection: Any) -> str:
    """Enables the write-ahead log, permanently for the file. SQLite does not wait for its lock here, so this does."""
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
    """Creates the engine; parameters of the URL override these settings."""
    limits = {
        "statement_timeout": "15s",
        "lock_timeout": f"{LOCK_TIMEOUT_S * 1000:.0f}ms",
        "idle_in_transaction_session_timeout": "60s",
    }
    settings = {
        "connect_timeout": 5,
        "application_name": "gradwire",
        # A lost host is detected in seconds.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "options": " ".join(f"-c {name}={value}" for name, value in limits.items()),
    }
    return create_engine(
        url,
        connect_args={key: value for key, value in settings.items() if key not in url.query},
        # One connection for budgets, one for the ledger, one for grants; an export has its own process.
        pool_size=3,
        max_overflow=3,
        pool_timeout=LOCK_TIMEOUT_S,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
    )


def _is_bug(error: SQLAlchemyError) -> bool:
    """True for an invalid statement or value, which is a bug and no failure of the database."""
    from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError, StatementError

    if isinstance(error, ProgrammingError):
        # A dropped table or a revoked privilege is a state of the database.
        return not str(getattr(error.orig, "sqlstate", "") or "").startswith("42")
    return isinstance(error, (DataError, IntegrityError)) or type(error) is StatementError
