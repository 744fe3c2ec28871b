"""Measure the processor time of charging a call and writing it to the ledger: ``python -m benchmarks.ledger``.

Elapsed time would not do: on a shared machine a fraction of a millisecond is lost in its noise. The share is that of the processor
time of a whole one-row prediction of a small torch model, in a server process; parts are measured in turns.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.contenders.gradwire import served
from gradwire.client import connect
from gradwire.server.catalogue.catalogue import Catalogue
from gradwire.server.catalogue.served import Served
from gradwire.server.config.reading import parse_config
from gradwire.server.engines.engine import load_models
from gradwire.server.store.store import Store
from gradwire.server.store.writer import CallWriter
from gradwire.server.trust.budgets.account import Desk
from gradwire.server.trust.budgets.accounts import Accounts
from gradwire.server.trust.budgets.charges import Charge
from gradwire.server.trust.grants.book import GrantBook
from gradwire.server.trust.grants.grant import Budget, Grant
from gradwire.server.trust.recorder import CallRecorder
from gradwire.server.values.clock import SteadyClock
from gradwire.server.values.rows import Rows

LAYER = {"path": "torch.nn:Linear", "args": {"in_features": 64, "out_features": 10}}
MODEL = {"name": "m", "backend": "torch", "factory": LAYER, "input_shape": [64], "nb_classes": 10}
BUDGETS = {"no budget": Budget(), "a budget": Budget(forward=1 << 60)}


class Books:
    """The accounts and the ledger of a server, without the server.

    Args:
        folder: Folder of the store.
        budget: Budget of the caller.
    """

    def __init__(self, folder: Path, budget: Budget) -> None:
        config = parse_config({"models": [MODEL]}, folder, "benchmark")
        clock = SteadyClock()
        self._store = Store.open(f"sqlite:///{folder / f'{id(self)}.db'}")
        self._thread = ThreadPoolExecutor(1)
        book = GrantBook({"m": "gradients"}, clock, open_to_all=False)
        book.take_filed([Grant(principal="alice", model="m", access="gradients", budget=budget)], "benchmark")
        accounts = Accounts(Desk(self._store, self._thread, clock, 100_000))
        self._catalogue = Catalogue([Served("m", load_models(config)["m"], "m", "gradients")], 0, book, accounts)
        self._writer = CallWriter(self._store, period_s=600.0, batch_calls=1_000_000)
        self._ledger = CallRecorder(self._writer, "benchmark")
        self._numbers = iter(range(1 << 60))

    async def _one(self) -> None:
        with self._ledger.entry("alice", "predict") as entry:
            entry.model, entry.request_id = "m", f"0123456789abcdef0123456789abcdef-{next(self._numbers)}"
            entry.granted = granted = self._catalogue.get("m", "alice")
            rows = Rows(1)
            charge = Charge(granted.charges, granted.grant.budget, entry.request_id, False, rows, _nobody)
            entry.rows = 1
            async with charge:
                await charge.begin(rows, b"0123456789abcdef")
                charge.computed(rows, b"0123456789abcdef")
            entry.charged = charge.charged
            if charge.binding:
                entry.paid, entry.lease = charge.paid, charge.lease

    def measure(self, calls: int) -> tuple[float, float]:
        """Measures the microseconds of processor time a call, of the event loop's thread and of the ledger's."""

        async def all_of_them() -> float:
            await self._one()
            began_s = time.thread_time()
            for _ in range(calls):
                await self._one()
            return time.thread_time() - began_s

        loop_s = asyncio.run(all_of_them())
        began_s = time.process_time() - time.thread_time()
        self._writer.flush(60.0)
        return 1e6 * loop_s / calls, 1e6 * (time.process_time() - time.thread_time() - began_s) / calls

    def close(self) -> None:
        """Writes the rest and closes the store."""
        self._writer.close(10.0)
        self._thread.shutdown()
        self._store.close()


def whole_call_us(address: str, pid: int, calls: int) -> float:
    """Measures the microseconds of processor time of a server process for a prediction of one row."""
    x = np.ones((1, 64), np.float32)
    with connect(address) as server:
        remote = server.estimator("m")
        for _ in range(100):
            remote.predict(x)
        before_s = _processor_s(pid)
        for _ in range(calls):
            remote.predict(x)
        return 1e6 * (_processor_s(pid) - before_s) / calls


def measure(
    calls: int = typer.Option(2_000, help="In each of the turns.", min=100),
    turns: int = typer.Option(9, min=1),
) -> None:
    """Measure the processor time of charging a call and writing it to the ledger."""
    parts: dict[str, list[tuple[float, float]]] = {name: [] for name in BUDGETS}
    whole: list[float] = []
    with tempfile.TemporaryDirectory() as folder, served(f"\n  - {json.dumps(MODEL)}") as server:
        books = {name: Books(Path(folder), budget) for name, budget in BUDGETS.items()}
        # Keeps the garbage collector from searching loaded libraries: there are more of them here than in a server.
        gc.collect()
        gc.freeze()
        for _ in range(turns):
            whole.append(whole_call_us(server.address, server.pid, calls))
            for name, its in books.items():
                parts[name].append(its.measure(calls))
        for its in books.values():
            its.close()
    Console().print(_table(parts, whole))


def _table(parts: dict[str, list[tuple[float, float]]], whole: list[float]) -> Table:
    call_us = median(whole)
    table = Table(title=f"Of {call_us:.0f} µs of processor time for a prediction of one row", title_justify="left")
    for column in ("", "event loop, µs", "ledger's thread, µs", "share"):
        table.add_column(column, justify="right" if column else "left")
    for name, turns in parts.items():
        loop_us, thread_us = median(turn[0] for turn in turns), median(turn[1] for turn in turns)
        table.add_row(name, f"{loop_us:.1f}", f"{thread_us:.1f}", f"{(loop_us + thread_us) / call_us:.1%}")
    return table


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _nobody() -> None:
    """Does nothing: no request id comes twice, so no other call is waited for."""


if __name__ == "__main__":
    typer.run(measure)
