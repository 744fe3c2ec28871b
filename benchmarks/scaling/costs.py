"""Costs that the model is fed with: measured ones from the results, and assumed ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from benchmarks.setting import RESULTS

COSTS_FILE = RESULTS / "scaling-costs.json"
"""Written by ``python -m benchmarks.scaling.measure``."""

MEASURED: dict[str, Any] = json.loads(COSTS_FILE.read_text()) if COSTS_FILE.exists() else {}


@dataclass(frozen=True)
class Gpu:
    """Time of a batch on a GPU: the longer of a least time and its rows' time, and copies there and back.

    Attributes:
        floor_s: Time to launch all kernels of the model one by one, the least time of a batch.
        rows_per_s: Rate of large batches.
        copy_bytes_per_s: Rate of copies between the server's memory and the GPU's.
        launch_share: Share of ``floor_s`` during which the interpreter of the process is taken.
        always_s: Further time of every batch.
    """

    floor_s: float
    rows_per_s: float
    copy_bytes_per_s: float = 12e9
    launch_share: float = 0.5
    always_s: float = 0.0

    def seconds(self, rows: int, copied_nbytes: float) -> float:
        """Computes the time of a batch."""
        if not rows:
            return 0.0
        return self.always_s + max(self.floor_s, rows / self.rows_per_s) + copied_nbytes / self.copy_bytes_per_s


def gpu(kind: str) -> Gpu:
    """Returns the GPU's times for a kind of client. Assumed, because no GPU was at hand; see `ASSUMED`."""
    return {"query": Gpu(1.2e-3, 60_000), "pgd128": Gpu(3.5e-3, 20_000), "pgd64": Gpu(9e-3, 2_800)}[kind]


@dataclass(frozen=True)
class Hop:
    """Time of a block's way from a front process to a replica and back.

    Attributes:
        block_s: Time of a block of no rows.
        bytes_per_s: Rate of rows and results.
        front_share: Share of both during which the front's interpreter is taken.
    """

    block_s: float
    bytes_per_s: float
    front_share: float

    def seconds(self, nbytes: float) -> float:
        """Computes the time of a block."""
        return self.block_s + nbytes / self.bytes_per_s


ASSUMED_HOP = Hop(block_s=1.5e-3, bytes_per_s=1e9, front_share=0.5)
"""Assumed, until it is measured: the way from a front to a replica of ``--engine ray``."""


@dataclass(frozen=True)
class Store:
    """Times of the database of budgets and the ledger.

    Attributes:
        name: Name of the database.
        batch_s: Time of a transaction that writes calls, whatever their number.
        call_s: Further time for each of its calls.
        lease_s: Time of a transaction that takes a lease.
        leases_at_once: Transactions for leases of different principals that run in parallel.
        one_writer: True if the ledger and leases wait for each other.
        lease_loop_s: Processor time of a server for a lease.
    """

    name: str
    batch_s: float
    call_s: float
    lease_s: float
    leases_at_once: int
    one_writer: bool
    lease_loop_s: float

    @property
    def most_calls_per_s(self) -> float:
        """Calls a second that it can write if every batch is full."""
        return 1 / (self.batch_s / BATCH_CALLS + self.call_s)


STORES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def store(name: str) -> Store:
    """Returns the measured times of one of `STORES`."""
    of = MEASURED["stores"][name]
    return Store(
        name=STORES[name],
        batch_s=of["batch_us"] * 1e-6,
        call_s=of["call_us"] * 1e-6,
        lease_s=of["lease_us"] * 1e-6,
        leases_at_once=max(1, round(of["leases_at_once"])),
        one_writer=name == "sqlite",
        lease_loop_s=of["lease_cpu_us"] * 1e-6,
    )


# The server's own settings; the defaults of its configuration.
BATCH_CALLS = 1000
FLUSH_S = 0.5
LEASE_ROWS = 100
MAX_BATCH_ROWS = 128
MAX_CALLS = 1024
SWITCH_S = 5e-3
"""Time after which Python takes the interpreter from a thread, the event loop's, for one that waits, the runner's."""
AT_A_REPLICA = 2
"""Row blocks that a front sends to each replica at the same time."""

# Times after which a client retries a refused call.
RETRY_S = (0.05, 0.06, 0.18)
"""After the first, second and third refusal with `QueueFull`; then the caller gets the error."""
STORE_RETRY_S = 1.0
"""After a refusal because the ledger has no room."""

GPUS_PER_NODE = 8
RTT_S = 0.2e-3
PRINCIPALS = 20
ARRIVING_SHARE = 0.6
"""Share of the event loop's time for a call before its rows wait for the device."""

ASSUMED = {
    "ResNet50-like, loss gradient": (
        "2,800 rows/s, 9 ms at least",
        "NVIDIA's DeepLearningExamples train ResNet50 v1.5 with 938 images/s in TF32 on one A100 80 GB; an H200 taken as twice "
        "that; a gradient with respect to inputs as two thirds of a training step; 9 ms: some 500 kernels, launched one by one",
    ),
    "CIFAR ResNet18, loss gradient": (
        "20,000 rows/s, 3.5 ms at least",
        "0.56 against 4.1 GMAC a row: 7.3 times the rows of ResNet50; 3.5 ms: some 190 kernels",
    ),
    "CIFAR ResNet18, predict": ("60,000 rows/s, 1.2 ms at least", "a third of a gradient's arithmetic; 1.2 ms: some 62 kernels"),
    "to the GPU and back": ("12 GB/s", "through pinned memory: a copy on the host, then PCIe"),
    "interpreter while kernels are launched": (
        "half of the least time of a batch",
        "torch gives the interpreter up in parts of its calls",
    ),
    "front to replica": (
        f"{1e3 * ASSUMED_HOP.block_s:g} ms a block and {ASSUMED_HOP.bytes_per_s / 1e9:g} GB/s; half of it the front is busy",
        "on a front with cores of its own; where Ray, replica and client shared two, [5.5 ms and more](decisions/replicas.md) "
        "were measured",
    ),
    "network": (f"25 Gbit/s a node each way, {1e3 * RTT_S:g} ms there and back", "10 and 100 Gbit/s below"),
    "nodes": (
        f"{GPUS_PER_NODE} GPUs; each front on a node of its own",
        "as GPU servers are sold; with enough cores for all processes",
    ),
    "principals": (f"{PRINCIPALS}, all with a budget, clients spread evenly", "teams that evaluate each other's models"),
    "processor": ("as fast as the measured one", "newer cores are up to twice as fast; then front ends carry twice as much"),
    "clients": ("machines of their own, with as much network as they need", ""),
}
"""Assumptions with their values and reasons."""
