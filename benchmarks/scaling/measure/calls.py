"""Processor time of a call in server and client, and the throughput of one host with both."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.scaling.measure.clients import Ask, Called, crew
from benchmarks.scaling.measure.models import cnn, entry
from benchmarks.scaling.measure.server import Mark, Watched, watched
from benchmarks.scaling.workload import WAYS

ROUNDS = 5
_MORE = ("calls_per_s", "batch_blocks")
_WARM_S = 0.7
_MODELS = {"small": 32, "large": 224}
CALLS = {
    "query": ("small", "predict", 1, 16),
    "pgd128": ("small", "loss_gradient", 128, 2),
    "pgd64": ("large", "loss_gradient", 64, 2),
}
"""By kind of client: model, operation, rows, and enough clients to keep the event loop busy."""
_BUDGET = {"access": "gradients", "budget": {"forward": 1 << 60, "backward": 1 << 60}}


@dataclass(frozen=True)
class Cost:
    """Microseconds of processor time of a call, by thread, and the throughput; see `measure`."""

    loop_us: float
    ledger_us: float
    python_us: float
    grpc_us: float
    runner_us: float
    compute_us: float
    client_us: float
    calls_per_s: float
    batch_blocks: float
    p50_us: float


def measure(server: Watched, ask: Ask, clients: int, seconds: float, blocks: int = 1) -> Cost:
    """Measures the cost of a call with a number of clients; the best of `ROUNDS`.

    Args:
        server: The server.
        ask: The call.
        clients: Number of clients.
        seconds: Time of each round.
        blocks: Blocks of a call.
    """
    found = []
    for _ in range(ROUNDS):
        with crew(server.address, ask, clients) as people:
            people.begin()
            time.sleep(_WARM_S)
            began_s, before = time.perf_counter(), server.mark()
            time.sleep(seconds)
            after, passed_s = server.mark(), time.perf_counter() - began_s
            found.append(_cost(after.since(before), people.end(), passed_s, blocks))
    # Other work of the machine only makes calls slower: the least of times counts, and the most of calls.
    return Cost(**{name: (max if name in _MORE else min)(asdict(cost)[name] for cost in found) for name in asdict(found[0])})


def _cost(mark: Mark, called: Called, passed_s: float, blocks: int) -> Cost:
    calls = mark.blocks / blocks

    def each_us(name: str) -> float:
        return 1e6 * mark.thread_s.get(name, 0.0) / calls

    return Cost(
        loop_us=each_us("loop"),
        ledger_us=each_us("ledger") + each_us("store"),
        python_us=each_us("python"),
        grpc_us=each_us("grpc"),
        runner_us=each_us("runner"),
        compute_us=1e6 * mark.compute_s / calls,
        client_us=1e6 * called.cpu_s / called.calls,
        calls_per_s=calls / passed_s,
        batch_blocks=mark.blocks / max(1, mark.batches),
        p50_us=1e6 * called.p50_s,
    )


def calls(quick: bool) -> dict[str, Any]:
    """Measures the costs of calls by kind and way: those that the model takes, and all others beside them."""
    seconds = 1.0 if quick else 3.0
    raw: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as folder:
        grants = Path(folder) / "grants.yaml"
        grants.write_text(yaml.safe_dump([{"principal": "anonymous", "model": name, **_BUDGET} for name in _MODELS]))
        models = [entry(name, side) for name, side in _MODELS.items()]
        # Leases are measured separately.
        with watched(models, grants=str(grants), lease_rows=1 << 40) as server:
            for kind, (model, operation, rows, clients) in CALLS.items():
                for way in WAYS:
                    raw[f"{kind}, {way}"] = measure(
                        server, Ask(model, operation, rows, way), clients, seconds, 2 if kind == "pgd64" else 1
                    )
    found = {
        name: {"loop_us": cost.loop_us + cost.ledger_us + cost.python_us, "grpc_us": cost.grpc_us, "client_us": cost.client_us}
        for name, cost in raw.items()
    }
    return {"calls": found, "raw": {name: asdict(cost) for name, cost in raw.items()}}


def refusal_us(quick: bool) -> float:
    """Measures a server's processor time for a refused call, the end of its stream and the next stream.

    Another client holds the only place nearly always, with long calls that take little time on the event loop.
    """
    with watched([entry("small", 32), cnn()], limits={"max_calls": 1}) as server:
        long, small = Ask("cnn", "loss_gradient", 1000, "socket", refused=True), Ask("small", "predict", 1, "grpc", refused=True)
        found = []
        for _ in range(ROUNDS):
            with crew(server.address, long, 1) as holder, crew(server.address, small, 2) as people:
                holder.begin()
                time.sleep(_WARM_S)
                before = server.mark()
                people.begin()
                time.sleep(1.0 if quick else 4.0)
                called = people.end()
                mark = server.mark().since(before)
                holder.end()
                found.append(1e6 * (mark.thread_s["loop"] + mark.thread_s.get("python", 0.0)) / called.calls)
    return min(found)


def one_host(quick: bool) -> dict[str, Any]:
    """Measures the CNN of the other benchmarks on the Unix socket, with clients on the server's host."""
    seconds = 1.0 if quick else 2.5
    with watched([cnn()]) as server:
        return {
            f"{operation}, {clients}": asdict(measure(server, Ask("cnn", operation, 1, "socket"), clients, seconds))
            for operation in ("predict", "loss_gradient")
            for clients in (1, 4, 16, 64)
        }
