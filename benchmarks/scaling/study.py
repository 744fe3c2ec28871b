"""The study: sites and numbers of clients to simulate, and the length of each simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from typing import Any

from benchmarks.scaling import accounts
from benchmarks.scaling.costs import ASSUMED_HOP, store
from benchmarks.scaling.model import Simulation
from benchmarks.scaling.site import Outcome, Site
from benchmarks.scaling.workload import NAMES, Kind, kind

GPUS = (1, 8, 64, 512)
CLIENTS = (10, 100, 300, 1000, 3000, 10_000)
SHOWN = (10, 100, 1000, 10_000)
"""The numbers of clients in the table."""
TOPOLOGIES = {"servers": "a server a GPU", "front": "one front", "fronts": "a front for 8 GPUs"}

_MOST_S = 40.0
_FULL_S = 3.0
"""Longest simulation with a full ledger: there are many refusals, and the database's pace is constant."""


def site(gpus: int, topology: str) -> Site:
    """Makes a site with default settings. A single process that takes calls has SQLite, several share PostgreSQL."""
    fronts = {"servers": None, "front": 1, "fronts": max(1, gpus // 8)}[topology]
    return Site(gpus, store("sqlite" if (fronts or gpus) == 1 else "postgresql"), fronts)


def simulate(kind: Kind, clients: int, site: Site) -> Outcome:
    """Simulates one kind of clients at one site; again with a full ledger if it is too slow for them."""
    outcome = Simulation(kind, clients, site).run(max(400, clients), max(2500, 2 * clients), _MOST_S)
    if accounts.share(site, outcome.calls_per_s) < 1:
        return outcome
    again = Simulation(kind, clients, site, ledger_full=True)
    return again.run(1 << 60, 1 << 60, _FULL_S)


@dataclass(frozen=True)
class Case:
    """A simulation with its names in the results."""

    name: str
    kind: str
    gpus: int
    topology: str
    clients: int
    site: Site
    way: str = "grpc"
    change: str = ""

    def run(self) -> dict[str, Any]:
        """Simulates the case."""
        outcome = simulate(_changed(kind(self.kind, self.way), self.change), self.clients, self.site)
        about = {"name": self.name, "kind": self.kind, "gpus": self.gpus, "topology": self.topology, "clients": self.clients}
        return {**about, **_rounded(asdict(outcome)), "bottleneck": outcome.bottleneck}


def grid() -> list[Case]:
    """Makes the cases for all numbers of GPUs and clients; a front for 8 GPUs needs more than 8."""
    return [
        Case("", name, gpus, topology, clients, site(gpus, topology))
        for name in NAMES
        for topology in TOPOLOGIES
        for gpus in GPUS
        for clients in CLIENTS
        if not (topology == "fronts" and gpus <= 8)
    ]


WHAT_IF_GPUS, WHAT_IF_CLIENTS = 64, 3000

_CHANGES: dict[str, Callable[[Kind], Kind]] = {
    "": lambda kind: kind,
    "processor": lambda kind: replace(
        kind, loop_s=kind.loop_s / 2, batch_s=kind.batch_s / 2, batch_block_s=kind.batch_block_s / 2, client_s=kind.client_s / 2
    ),
    "graphs": lambda kind: replace(kind, gpu=replace(kind.gpu, floor_s=kind.gpu.floor_s / 5, launch_share=0.2)),
}


def _changed(kind: Kind, change: str) -> Kind:
    return _CHANGES[change](kind)


def what_if() -> list[Case]:
    """Makes the cases that remove the first bottlenecks and then change one thing at a time."""
    servers = site(WHAT_IF_GPUS, "servers")
    four = replace(
        servers.store,
        batch_s=servers.store.batch_s / 4,
        call_s=servers.store.call_s / 4,
        leases_at_once=4 * servers.store.leases_at_once,
    )
    leased = replace(servers, lease_rows=10_000)
    tuned = replace(leased, store=four)
    fronts = replace(tuned, fronts=WHAT_IF_GPUS // 8)
    changes: list[tuple[str, Site, str, str]] = [
        ("as above", servers, "grpc", ""),
        ("`lease_rows: 10000`", leased, "grpc", ""),
        ("the same, on four databases", tuned, "grpc", ""),
        ("... and 10 Gbit/s a node", replace(tuned, network_bits_per_s=10e9), "grpc", ""),
        ("... and 100 Gbit/s a node", replace(tuned, network_bits_per_s=100e9), "grpc", ""),
        ("... and bfloat16 there, signs back", tuned, "codecs", ""),
        ("... and GPUs half as fast", replace(tuned, gpu_speed=0.5), "grpc", ""),
        ("... and GPUs twice as fast", replace(tuned, gpu_speed=2.0), "grpc", ""),
        ("... and processors twice as fast", tuned, "grpc", "processor"),
        ("... and a fifth of the launching, as with CUDA graphs", tuned, "grpc", "graphs"),
        ("... and `max_batch_rows: 1024`", replace(tuned, max_batch_rows=1024), "grpc", ""),
        ("... and 100 Gbit/s, processors twice as fast", replace(tuned, network_bits_per_s=100e9), "grpc", "processor"),
        ("the same with 8 fronts", fronts, "grpc", ""),
        ("... with 32 fronts", replace(fronts, fronts=32), "grpc", ""),
        (
            "... with 8, a hop of 0.5 ms and 3 GB/s",
            replace(fronts, hop=replace(ASSUMED_HOP, block_s=0.5e-3, bytes_per_s=3e9)),
            "grpc",
            "",
        ),
        (
            "... with 8, a hop of 4 ms and 0.5 GB/s",
            replace(fronts, hop=replace(ASSUMED_HOP, block_s=4e-3, bytes_per_s=0.5e9)),
            "grpc",
            "",
        ),
    ]
    return [
        Case(title, name, WHAT_IF_GPUS, "servers" if at.fronts is None else "fronts", WHAT_IF_CLIENTS, at, way, change)
        for title, at, way, change in changes
        for name in NAMES
    ]


def run(cases: Iterable[Case], processes: int, told: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Simulates all cases, in order.

    Args:
        cases: The cases.
        processes: Number of processes that share the work.
        told: Called with each result.
    """
    found = []
    with get_context("spawn").Pool(processes) as pool:
        for result in pool.imap(Case.run, list(cases)):
            told(result)
            found.append(result)
    return found


def _rounded(value: Any) -> Any:
    """Rounds to five digits: further ones mean nothing, and differ between systems' arithmetic."""
    if isinstance(value, dict):
        return {name: _rounded(of) for name, of in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
