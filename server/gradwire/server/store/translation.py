"""Translation of database errors to StoreUnavailable, with their meaning and a remedy.

No text contains a password: URLs appear only as `shown` returns them.
"""

from __future__ import annotations

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gradwire.server.errors import StoreUnavailable

_SQLITE = {
    # words of SQLite: meaning, remedy
    "locked": ("another process has held its lock for too long", "end what holds it, a backup or an open sqlite3 shell"),
    "busy": ("another process has held its lock for too long", "end what holds it, a backup or an open sqlite3 shell"),
    "full": ("its disk is full", "free some space there"),
    "disk i/o error": (
        "its disk cannot be written or read: it is full, over a quota, or broken",
        "free some space there, or look at the disk",
    ),
    "readonly": ("the file cannot be written", "make it and its folder writable for the server's user"),
    "unable to open": ("the file cannot be opened", "check that its folder exists and is writable for the server's user"),
    "not a database": ("the file is not a database", "move it away, or name another file"),
    "malformed": ("the file is damaged", "restore it from a backup, or move it away and start with a new one"),
}
_POSTGRES = {
    # SQLSTATE, or its class: meaning, remedy
    "53100": ("the database's disk is full", "free some space there"),
    "53300": ("the database has no free connection", "raise its max_connections, or end other clients"),
    "55P03": ("another transaction has held a lock for too long", "end it; pg_stat_activity lists it"),
    "57014": ("the database took too long to answer", "find what slows it in pg_stat_activity"),
    "57P": ("the database is starting or stopping", "start it, or wait"),
    "28": ("the database refuses the user or the password", "check the user of the URL, and PGPASSWORD or ~/.pgpass"),
    "3D000": ("no database of that name exists", "make it with createdb, or name another one"),
    "25006": ("the database is read-only, perhaps a standby", "name the primary"),
    "42501": ("the user lacks a privilege", "GRANT the user its privileges on the database's schema"),
}
_RETRYABLE = {"40001", "40P01"}


def shown(url: URL) -> str:
    """Returns a URL without its password and without the query, which may contain one too."""
    return url.set(query={}).render_as_string(hide_password=True)


def retryable(error: SQLAlchemyError) -> bool:
    """True if the database rolled the transaction back because of a concurrent one."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _RETRYABLE


def broken_off(error: SQLAlchemyError) -> bool:
    """True if the connection was lost, so that the result of the transaction is unknown."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def unavailable(error: SQLAlchemyError, url: URL, *, uncertain: bool = False) -> StoreUnavailable:
    """Translates an error of the database to StoreUnavailable, with a text for the operator."""
    where = f"the store {shown(url)} is not available"
    if isinstance(error, PoolTimeout):
        return StoreUnavailable(f"{where}: all connections of this server are busy; find what slows the database")
    text = str(getattr(error, "orig", None) or error).strip()
    means, remedy = _meaning(error, text)
    first = text.splitlines()[0] if text else type(error).__name__
    if url.password:
        first = first.replace(str(url.password), "***")
    return StoreUnavailable(f"{where}: {means} ({first}); {remedy}", uncertain=uncertain)


def _meaning(error: SQLAlchemyError, text: str) -> tuple[str, str]:
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if state:
        for start, meaning in _POSTGRES.items():
            if state.startswith(start):
                return meaning
    for word, meaning in _SQLITE.items():
        if word in text.lower():
            return meaning
    if "password authentication failed" in text or "no password supplied" in text:
        return _POSTGRES["28"]
    if "does not exist" in text and "FATAL" in text:
        return _POSTGRES["3D000"]
    if "too many clients" in text:
        return _POSTGRES["53300"]
    if broken_off(error) or "connection" in text.lower():
        return "it cannot be reached", "start the database, or check the URL's host and port"
    return "the database failed", "see its log"
