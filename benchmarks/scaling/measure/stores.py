"""Times of a database for batches of the ledger and leases of budgets, alone and in parallel."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from multiprocessing.connection import Connection
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.scaling.measure.processes import piped
from gradwire.server.store import BudgetLimits, CallRecord, ChargeRecord, Store
from gradwire.server.values.rows import Rows

PRINCIPALS = 20
_USUAL = 10
"""Percentile of times that counts: other work of the machine and its disk only makes them longer."""
_BATCH_CALLS = 1000
_LIMITS = BudgetLimits(max_forward=1 << 60, max_backward=1 << 60)
_LEASE = Rows(128, 128)


def store(url: str, quick: bool) -> dict[str, Any]:
    """Measures one database, which should be empty and have no other work.

    Args:
        url: As in a server's configuration.
        quick: True for few transactions, to try things out.
    """
    repeats, seconds = (5, 1.0) if quick else (40, 6.0)
    with Store.open(url) as opened:
        batch = _Batches(opened)
        one_us, full_us = batch.usual_us(1, repeats), batch.usual_us(_BATCH_CALLS, repeats)
        lease = _Leases(opened)
        lease.take(5)
        leases = [(_seconds(lambda: lease.take(1)), _cpu_s(lambda: lease.take(1))) for _ in range(5 * repeats)]
        lease_us, lease_cpu_us = (1e6 * float(np.percentile(of, _USUAL)) for of in zip(*leases, strict=True))
    call_us = (full_us - one_us) / (_BATCH_CALLS - 1)
    alone = _rate(url, "leases", 1, False, seconds)
    apart, together = _rate(url, "leases", 8, False, seconds), _rate(url, "leases", 8, True, seconds)
    return {
        "batch_us": one_us - call_us,
        "call_us": call_us,
        "lease_us": lease_us,
        "lease_cpu_us": lease_cpu_us,
        "leases_at_once": apart / alone,
        "leases_per_s": {"one server": alone, "8 servers, 8 principals": apart, "8 servers, one principal": together},
        "calls_per_s": {f"{servers} servers": _rate(url, "batches", servers, False, seconds) for servers in (1, 4)},
    }


class _Batches:
    """Batches of a ledger's calls with their charges, of principals in turn."""

    def __init__(self, store: Store) -> None:
        self._store, self._number, self._calls, self._name = store, 0, 0, uuid.uuid4().hex

    def write(self, calls: int) -> None:
        """Writes one batch."""
        self._number += 1
        records, charges = [], []
        for _ in range(calls):
            self._calls += 1
            at_us, principal, request_id = time.time_ns() // 1000, f"p{self._calls % PRINCIPALS}", f"{self._name}-{self._calls}"
            records.append(
                CallRecord(at_us, "host:1", principal, "m", "initial", "loss_gradient", 128, 128, 128, "OK", 9000, request_id)
            )
            charges.append(ChargeRecord(principal, "m", request_id, self._calls.to_bytes(16, "little"), 128, 128, at_us))
        self._store.write_calls(records, charges, writer=self._name, number=self._number)

    def usual_us(self, calls: int, repeats: int) -> float:
        """Measures the microseconds of a batch."""
        self.write(calls)
        return 1e6 * float(np.percentile([_seconds(lambda: self.write(calls)) for _ in range(repeats)], _USUAL))


class _Leases:
    """Leases of one principal's budget."""

    def __init__(self, store: Store, principal: str = "p0") -> None:
        self._store, self._principal = store, principal

    def take(self, count: int) -> None:
        """Takes a number of leases."""
        for _ in range(count):
            self._store.take(self._principal, "m", _LEASE, _LEASE, _LIMITS, time.time())


def _rate(url: str, what: str, servers: int, one_principal: bool, seconds: float) -> float:
    """Measures leases or calls a second of several processes together."""
    with piped(_write, [(url, what, number, one_principal) for number in range(servers)]) as pipes:
        for pipe in pipes:
            pipe.send(seconds)
        return servers * mean([float(pipe.recv()) for pipe in pipes])


def _write(pipe: Connection[Any, Any], url: str, what: str, number: int, one_principal: bool) -> None:
    with Store.open(url) as opened:
        batches = _Batches(opened)
        leases = _Leases(opened, "p0" if one_principal else f"p{number}")
        pipe.send("ready")
        seconds, done = pipe.recv(), 0
        began_s = time.perf_counter()
        while time.perf_counter() - began_s < seconds:
            if what == "batches":
                batches.write(_BATCH_CALLS)
                done += _BATCH_CALLS
            else:
                leases.take(1)
                done += 1
        pipe.send(done / (time.perf_counter() - began_s))


def _seconds(function: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    function()
    return time.perf_counter() - began_s


def _cpu_s(function: Callable[[], None]) -> float:
    began_s = time.thread_time()
    function()
    return time.thread_time() - began_s
