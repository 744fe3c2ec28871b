"""Both databases: a SQLite file, and a PostgreSQL server of the tests' own, which a test may stop and start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import postgres

from gradwire.server.store import Store

__all__ = ["postgres"]


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.database)])
def url(request: Any, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "SQLite":
        return f"sqlite:///{tmp_path}/state/gradwire.db"
    return str(request.getfixturevalue("postgres").new())


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened
