"""What is set up, and what came of it, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.scaling.costs import ASSUMED_HOP, LEASE_ROWS, MAX_BATCH_ROWS, MAX_CALLS, PRINCIPALS, RTT_S, Hop, Store

CLIENTS = "clients"
"""In place of a bottleneck: nothing is short of anything but of clients."""
BUSY = 0.7
"""A resource that is less busy holds nobody up."""


@dataclass(frozen=True)
class Site:
    """Servers, their network and their database.

    Attributes:
        gpus: Each is one server's, or one replica's.
        store: Of budgets and the ledger.
        fronts: Processes in front of replicas; None: each GPU has a server of its own, and clients are spread by DNS.
        network_bits_per_s: Of a node, each way.
        rtt_s: Between a client and a server, there and back.
        lease_rows: As in the server's configuration; so are ``max_batch_rows`` and ``max_calls``.
        principals: Among whom clients are spread.
        gpu_speed: Of the GPUs, as a multiple of what is assumed.
        hop: From a front to a replica.
        cores: Where everything runs on one host, clients too: its cores. None: there are enough everywhere.
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
        """That take calls, each with an interpreter."""
        return self.gpus if self.fronts is None else self.fronts


@dataclass(frozen=True)
class Outcome:
    """What a simulation came to, in the time that counts.

    Attributes:
        seconds: That time.
        calls_per_s: Answered.
        rows_per_s: In them.
        p50_s: Of the latency as the caller sees it, refusals included; so are ``p99_s`` and ``mean_s``.
        under_way: Calls that clients wait for, on average.
        utilisation: By resource, 0 to 1.
        batch_rows: Computed at once, on average; ``most_batch_rows`` at most.
        refused: Share of all attempts that were told to come back.
        late: Whether the time that counts ended before so many calls as there should be were answered.
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
