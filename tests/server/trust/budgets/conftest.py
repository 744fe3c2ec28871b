"""Accounts of two servers on one store, in a SQLite file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from gradwire.server.store import Store
from gradwire.server.trust.budgets.account import Desk
from gradwire.server.values.clock import SteadyClock

T = TypeVar("T")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'gradwire.db'}") as store:
        yield store


@pytest.fixture
def desks(store: Store) -> Iterator[Callable[[int], Desk]]:
    """Makes desks, each of which stands for a server of its own."""
    threads: list[ThreadPoolExecutor] = []

    def desk(lease_rows: int = 100) -> Desk:
        threads.append(ThreadPoolExecutor(1))
        return Desk(store, threads[-1], SteadyClock(), lease_rows)

    yield desk
    for thread in threads:
        thread.shutdown()


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, T]], T]:
    return asyncio.run
