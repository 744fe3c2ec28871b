"""What goes wrong with the store, in two errors, and the one table that sorts what databases raise into them.

No text here holds a password: of a URL only what `shown` leaves is ever told.
"""

from __future__ import annotations

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gradwire.server.errors import StoreUnavailable

_SQLITE = {
    # what SQLite says: what it means, what to do
    "locked": ("another process has held its lock for too long", "end what holds it, a backup or an open sqlite3 shell"),
    "busy": ("another process has held its lock for too long", "end what holds it, a backup or an open sqlite3 shell"),
    "full": ("its disk is full", "free some space there"),
    "disk i/o error": (
        "its disk cannot be written or read: it is full, over a quota, or broken",
        "free some space there, or look at the disk",
    ),
    "readonly": ("the file cannot be written", "make it and its folder writable for the server's user"),
    "unable to open": ("the file cannot be opened", "check that its folder is there and writable for the server's user"),
    "not a database": ("the file is something else than a database", "move it away, or name another file"),
    "malformed": ("the file is damaged", "restore it from a backup, or move it away and begin anew"),
}
_POSTGRES = {
    # SQLSTATE, or its class: what it means, what to do
    "53100": ("the database's disk is full", "free some space there"),
    "53300": ("the database has no free connection", "raise its max_connections, or end other clients"),
    "55P03": ("another transaction has held a lock for too long", "end it, see pg_stat_activity"),
    "57014": ("the database took too long to answer", "look for what slows it, see pg_stat_activity"),
    "57P": ("the database is starting or stopping", "start it, or wait"),
    "28": ("the database refuses the user or the password", "check the user of the URL, and PGPASSWORD or ~/.pgpass"),
    "3D000": ("there is no database of that name", "make it with createdb, or name another one"),
    "25006": ("the database is read-only, a standby perhaps", "name the primary"),
    "42501": ("the user may not do that", "GRANT the user what it needs on the database's schema"),
}
_RETRYABLE = {"40001", "40P01"}


def shown(url: URL) -> str:
    """A URL without its password, and without the options after the question mark, which may hold one too."""
    return url.set(query={}).render_as_string(hide_password=True)


def retryable(error: SQLAlchemyError) -> bool:
    """Whether the database undid the transaction only because of another one that ran at the same time."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _RETRYABLE


def broken_off(error: SQLAlchemyError) -> bool:
    """Whether the connection is gone, so that nobody knows what became of a transaction."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def unavailable(error: SQLAlchemyError, url: URL, *, uncertain: bool = False) -> StoreUnavailable:
    """What an error of the database means to a server, and to whom operates it."""
    where = f"the store {shown(url)} is not available"
    if isinstance(error, PoolTimeout):
        return StoreUnavailable(f"{where}: all connections of this server are busy; look for what slows the database")
    said = str(getattr(error, "orig", None) or error).strip()
    means, remedy = _meaning(error, said)
    first = said.splitlines()[0] if said else type(error).__name__
    if url.password:
        first = first.replace(str(url.password), "***")
    return StoreUnavailable(f"{where}: {means} ({first}); {remedy}", uncertain=uncertain)


def _meaning(error: SQLAlchemyError, said: str) -> tuple[str, str]:
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if state:
        for start, meaning in _POSTGRES.items():
            if state.startswith(start):
                return meaning
    for word, meaning in _SQLITE.items():
        if word in said.lower():
            return meaning
    if "password authentication failed" in said or "no password supplied" in said:
        return _POSTGRES["28"]
    if "does not exist" in said and "FATAL" in said:
        return _POSTGRES["3D000"]
    if "too many clients" in said:
        return _POSTGRES["53300"]
    if broken_off(error) or "connection" in said.lower():
        return "it cannot be reached", "start the database, or check the URL's host and port"
    return "the database failed", "see its log"
