"""Validation of the model against measurements of one server and its clients on the two cores of one host."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.scaling.costs import MEASURED, Gpu, store
from benchmarks.scaling.model import Simulation
from benchmarks.scaling.site import Site
from benchmarks.scaling.workload import Kind
from benchmarks.setting import RESULTS

FIGURES_FILE = RESULTS / "figures.json"
OPERATIONS_FILE = RESULTS / "operations.json"
_CROWD = re.compile(r"64 active, 60 s, Unix socket: ([\d,]+) calls/s")
OPERATIONS = {"predict": "predict", "loss_gradient": "loss gradient"}
CLIENTS = (1, 4, 16, 64)
FED_WITH = 4
"""The model is fed with the measured costs at this number of clients, and predicts the others."""
_CORES = 2
_WAKING_S = 100e-6
"""Time to wake sleeping processes, there and back: that of the Unix socket in `microseconds.md`."""
_ROW_NBYTES = 4 * 28 * 28


def host_kind(operation: str) -> Kind:
    """Makes a client of the CNN on the server's host."""
    costs = [MEASURED["host"][f"{operation}, {number}"] for number in CLIENTS if number > 1]
    fed = MEASURED["host"][f"{operation}, {FED_WITH}"]
    blocks = [cost["batch_blocks"] for cost in costs]
    block_s, batch_s = np.polyfit(blocks, [1e-6 * cost["runner_us"] * cost["batch_blocks"] for cost in costs], 1)
    return Kind(
        name=operation,
        title=operation,
        rows=1,
        row_nbytes=_ROW_NBYTES,
        blocks=1,
        request_nbytes=0.0,
        answer_nbytes=0.0,
        gradients=operation != "predict",
        attack_s=0.0,
        client_s=1e-6 * fed["client_us"],
        loop_s=1e-6 * (fed["loop_us"] + fed["ledger_us"] + fed["python_us"] + fed["grpc_us"]),
        batch_s=0.0,
        batch_block_s=0.0,
        gpu=Gpu(0.0, 1 / max(1e-9, block_s), float("inf"), 0.0, max(0.0, float(batch_s))),
    )


def validate() -> list[dict[str, Any]]:
    """Compares measured and simulated calls a second and rows a batch."""
    published = _published()
    site = Site(1, store("sqlite"), rtt_s=_WAKING_S, lease_rows=1 << 40, cores=_CORES)
    found = []
    for operation in OPERATIONS:
        for clients in CLIENTS:
            measured = MEASURED["host"][f"{operation}, {clients}"]
            outcome = asdict(Simulation(host_kind(operation), clients, site).run(2000, 20_000))
            found.append(
                {
                    "operation": operation,
                    "clients": clients,
                    "measured_per_s": measured["calls_per_s"],
                    "published_per_s": published.get((operation, clients)),
                    "model_per_s": outcome["calls_per_s"],
                    "measured_batch": measured["batch_blocks"],
                    "model_batch": outcome["batch_rows"],
                }
            )
    return found


def _published() -> dict[tuple[str, int], float]:
    """Reads the results of the benchmarks' own run, if any: one client from latencies, 64 from the crowd."""
    found: dict[tuple[str, int], float] = {}
    if OPERATIONS_FILE.exists():
        for result in json.loads(OPERATIONS_FILE.read_text())["results"]:
            if result["contender"] == "gradwire" and result["rows"] == 1 and result["operation"] in OPERATIONS:
                found[result["operation"], 1] = 1e3 / result["median_ms"]
    if not FIGURES_FILE.exists():
        return found
    for figure in json.loads(FIGURES_FILE.read_text())["figures"]:
        if figure["group"] == "crowd" and (told := _CROWD.search(figure["remark"])):
            found["predict", 64] = float(told[1].replace(",", ""))
        for operation, title in OPERATIONS.items():
            if figure["group"] == "clients" and (told := re.match(rf"{title}, (\d+) clients", figure["name"])):
                found[operation, int(told[1])] = figure["value"]
    return found
