"""A site to simulate, and the outcome of its simulation, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.scaling.costs import ASSUMED_HOP, LEASE_ROWS, MAX_BATCH_ROWS, MAX_CALLS, PRINCIPALS, RTT_S, Hop, Store

CLIENTS = "clients"
"""The bottleneck if no resource is busy."""
BUSY = 0.7
"""Utilisation from which on a resource is a bottleneck."""


@dataclass(frozen=True)
class Site:
    """Servers, their network and their database.

    Attributes:
        gpus: Number of GPUs, each of one server or one replica.
        store: Database of budgets and the ledger.
        fronts: Processes in front of replicas; None: each GPU has a server of its own, and clients are spread by DNS.
        network_bits_per_s: Network of a node, each way.
        rtt_s: Round trip between a client and a server.
        lease_rows: As in the server's configuration; so are ``max_batch_rows`` and ``max_calls``.
        principals: Number of principals; clients are spread among them.
        gpu_speed: Speed of the GPUs, as a multiple of the assumed one.
        hop: The way from a front to a replica.
        cores: Cores of the host if everything runs on one, clients too; None: there are enough everywhere.
    """

    gpus: int
    store: Store
    fronts: int | None = None
    network_bits_per_s: float = 25e9
    rtt_s: float = RTT_S
    lease_rows: int = LEASE_ROWS
    max_batch_rows: int = MAX_BATCH_ROWS
    max_calls: int = MAX_CALLS
    principals: int = PRINCIPALS
    gpu_speed: float = 1.0
    hop: Hop = ASSUMED_HOP
    cores: int | None = None

    @property
    def processes(self) -> int:
        """Number of processes that take calls, each with an interpreter."""
        return self.gpus if self.fronts is None else self.fronts


@dataclass(frozen=True)
class Outcome:
    """Figures of a simulation, in the time that counts.

    Attributes:
        seconds: The time that counts.
        calls_per_s: Answered calls a second.
        rows_per_s: Rows in them a second.
        p50_s: Median of the latency as the caller sees it, refusals included.
        p99_s: 99th percentile of the latency.
        mean_s: Mean of the latency.
        under_way: Calls that clients wait for, on average.
        utilisation: Utilisation by resource, 0 to 1.
        batch_rows: Rows of a batch, on average.
        most_batch_rows: Rows of the largest batch.
        refused: Share of all attempts that were refused.
        late: True if the time ended before enough calls were answered.
    """

    seconds: float
    calls_per_s: float
    rows_per_s: float
    p50_s: float
    p99_s: float
    mean_s: float
    under_way: float
    utilisation: dict[str, float] = field(default_factory=dict)
    batch_rows: float = 0.0
    most_batch_rows: int = 0
    refused: float = 0.0
    late: bool = False

    @property
    def bottleneck(self) -> str:
        """The resource that is busiest; `CLIENTS` if none is busy."""
        busiest = max(self.utilisation, key=lambda name: self.utilisation[name])
        return busiest if self.utilisation[busiest] >= BUSY else CLIENTS
