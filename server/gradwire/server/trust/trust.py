"""Grants, budgets and the ledger, opened around one store."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradwire.server.config.server import ServerConfig, TracingConfig
from gradwire.server.errors import ConfigError, NotGranted, StoreConfigError, StoreUnavailable
from gradwire.server.store.store import Store
from gradwire.server.store.url import store_url
from gradwire.server.store.writer import CallWriter
from gradwire.server.telemetry.counts import Counts
from gradwire.server.trust.budgets.account import Desk
from gradwire.server.trust.budgets.accounts import Accounts
from gradwire.server.trust.budgets.left import BudgetsLeft
from gradwire.server.trust.grants.book import GrantBook, read_grants
from gradwire.server.trust.identity.files import Watched
from gradwire.server.trust.recorder import CallRecorder
from gradwire.server.values.access import AccessLevel
from gradwire.server.values.clock import SteadyClock

if TYPE_CHECKING:
    from gradwire.server.telemetry.tracing import Tracing

log = logging.getLogger("gradwire.server")

_LOOK_S = 0.5
"""Period of checks for grants that other servers have changed in the store."""
_CHARGES_KEPT = timedelta(hours=1)
"""Age until which charges of request ids by other servers are kept."""
_FORGET_S = 900.0
"""Period of removals of old charges and calls."""
_BETWEEN_S = 0.05
_CALLS_AT_ONCE = 1000
"""Calls removed in one transaction, during which leases of budgets wait."""
_CLOSE_S = 10.0


class Trust:
    """Grants, budgets and the ledger of a server. Opened before its event loop runs, started and closed on it.

    Args:
        config: Configuration of the server.

    Attributes:
        book: Grants in force.
        accounts: Budgets of principals.
        recorder: Recorder of calls.
        desk: Access of accounts to the store.
        store: The store.
        server: Name of this process in the ledger.
        writer: Writer of the ledger.
        counts: Counts of recorded calls.
        left: Rows left of all budgets.

    Raises:
        ConfigError: The store cannot be opened, or the grants are invalid.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._admins = frozenset(config.identity.admins if config.identity is not None else ())
        clock = SteadyClock()
        access: Mapping[str, AccessLevel] = {model.name: model.access for model in config.models}
        task = {model.name: model.model.task for model in config.models if model.model is not None}
        regressions = [model.name for model in config.models if task[model.same_as or model.name] == "regression"]
        self.book = GrantBook(access, clock, config.identity is None and config.grants is None, regressions)
        self._file = _watched(config.grants, self.book)
        try:
            self.store = Store.open(config.store or store_url(None, Path(), config.state_dir))
        except (StoreConfigError, StoreUnavailable) as e:
            raise ConfigError(f"store: {e}") from e
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gradwire-store")
        self.server = f"{socket.gethostname()}:{os.getpid()}"
        self.writer = CallWriter(self.store)
        self.counts = Counts(model.name for model in config.models)
        self._tracing = _tracing(config.tracing, self.server)
        self.recorder = CallRecorder(self.writer, self.server, self.counts, self._tracing)
        self.desk = Desk(self.store, self._thread, clock, config.lease_rows)
        self.accounts = Accounts(self.desk)
        self.left = BudgetsLeft(self.book, self.accounts, self.store)
        self._calls_kept = timedelta(days=config.keep_calls_days) if config.keep_calls_days else None
        self._generation = -1
        self._read_grants()
        self._tasks: list[asyncio.Task[None]] = []
        # A separate thread: while the store is unavailable each wait is long, and others need the loop's threads.
        self._flushing = ThreadPoolExecutor(1, "gradwire-flush")

    @property
    def watched(self) -> list[Watched[Any]]:
        """Files to reload when they change."""
        return [] if self._file is None else [self._file]

    def start(self) -> None:
        """Starts the periodic tasks for grants, accounts and old records."""
        self._tasks = [asyncio.create_task(task) for task in (self._look(), self.accounts.return_idle(), self._forget())]

    async def close(self) -> None:
        """Returns unused rows, writes pending calls, and closes the store."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self.accounts.close()
        await asyncio.get_running_loop().run_in_executor(None, self.writer.close, _CLOSE_S)
        if self._tracing is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._tracing.close)
        self._flushing.shutdown(wait=False, cancel_futures=True)
        self._thread.shutdown()
        self.store.close()

    def check_admin(self, principal: str) -> None:
        """Raises NotGranted if a principal is not an admin."""
        if principal not in self._admins:
            raise NotGranted(f"{principal!r} is not an admin of this server; identity.admins in its configuration lists them")

    async def change(self, function: Callable[..., Any], *args: Any) -> None:
        """Changes grants in the store, and reloads them here."""
        await self.desk.ask(function, *args)
        await self.desk.ask(self._read_grants)

    async def flush(self) -> None:
        """Waits until all recorded calls are written. Raises StoreUnavailable."""
        if not await asyncio.get_running_loop().run_in_executor(self._flushing, self.writer.flush, _CLOSE_S):
            raise StoreUnavailable(f"the ledger cannot be written now: {self.writer.problem or 'the write takes too long'}; retry")

    def _read_grants(self) -> None:
        stored = self.store.grants()
        self._generation = stored.generation
        self.book.take_stored(stored.grants)

    async def _look(self) -> None:
        """Reloads grants that other servers change. While the store is unavailable, the last known grants hold."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                if await self.desk.ask(self.store.grants_generation) != self._generation:
                    await self.desk.ask(self._read_grants)
            except StoreUnavailable:
                continue
            except Exception:
                # No error may end this task: later revocations must be noticed.
                log.exception("the grants of the store could not be read; the last known grants hold")

    async def _forget(self) -> None:
        while True:
            now = datetime.now(timezone.utc)
            try:
                await self.desk.ask(self.store.prune_charges, now - _CHARGES_KEPT)
                if self._calls_kept is not None:
                    while await self.desk.ask(self.store.forget_calls, now - self._calls_kept, _CALLS_AT_ONCE):
                        await asyncio.sleep(_BETWEEN_S)
            except StoreUnavailable as e:
                log.warning("old records could not be removed from the store; retrying later", extra={"reason": str(e)})
            except Exception:
                # No error may end this task, or the server could not close in order.
                log.exception("old records could not be removed from the store; retrying later")
            await asyncio.sleep(_FORGET_S)


def _tracing(config: TracingConfig | None, server: str) -> Tracing | None:
    if config is None:
        return None
    try:
        from gradwire.server.telemetry.tracing import Tracing
    except ImportError as e:
        raise ConfigError(f"tracing: {e.name} is not installed; install it with: pip install 'gradwire[tracing]'") from e
    return Tracing.to(config.endpoint, config.ratio, server)


def _watched(path: Path | None, book: GrantBook) -> Watched[None] | None:
    if path is None:
        return None
    try:
        return Watched([path], lambda content: book.take_filed(read_grants(content, str(path)), str(path)))
    except OSError as e:
        raise ConfigError(f"grants: {path}: {e.strerror}") from e
    except ValueError as e:
        raise ConfigError(f"grants: {e}") from e
