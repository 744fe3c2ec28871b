"""Processor time of the runner's thread for a batch: it takes blocks from the scheduler, joins them, computes and cuts.

This runs in one thread of this process, with the server's own scheduler and merging; the model computes next to nothing.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scaling.measure.models import entry
from gradwire.backends.estimator import Estimator
from gradwire.server.config.reading import parse_config
from gradwire.server.engines.engine import load_models
from gradwire.server.scheduling.merging import batch_key, compute
from gradwire.server.scheduling.scheduler import Scheduler

_BLOCKS = (1, 8, 32, 128)
_REPEATS = 300


def batches() -> dict[str, dict[str, float]]:
    """Measures, by operation, the microseconds of a batch of one row, and of each further one-row block in it."""
    config = parse_config({"models": [entry("m", 32)]}, Path.cwd(), "measure")
    estimator = load_models(config)["m"]
    return {operation: asyncio.run(_of(estimator, operation)) for operation in ("predict", "loss_gradient")}


async def _of(estimator: Estimator, operation: str) -> dict[str, float]:
    function = getattr(estimator, operation)
    rows: dict[str, Any] = {"x": np.zeros((1, 3, 32, 32), np.float32)}
    options: dict[str, Any] = {}
    if operation == "loss_gradient":
        rows["y"], options["divisor"] = np.zeros(1, np.int64), None
    like = batch_key(estimator, function, rows, options, max(_BLOCKS))
    scheduler = Scheduler(max(_BLOCKS))

    async def batch_s(blocks: int) -> float:
        with ExitStack() as stack:
            admitted = [stack.enter_context(scheduler.admit("m", client)) for client in range(blocks)]
            waiting = [call.submit(function, rows, options, like) for call in admitted]
            began_s = time.thread_time()
            batch = scheduler.take()
            assert batch is not None
            computed = compute(batch.works)
            scheduler.finished(batch, computed)
            passed_s = time.thread_time() - began_s
            assert len(batch.works) == blocks
            computed.deliver()
            await asyncio.gather(*waiting)
        return passed_s

    usual_us = []
    for blocks in _BLOCKS:
        await batch_s(blocks)
        usual_us.append(1e6 * float(np.percentile([await batch_s(blocks) for _ in range(_REPEATS)], 10)))
    block_us, one_us = np.polyfit([blocks - 1 for blocks in _BLOCKS], usual_us, 1)
    return {"batch_us": max(0.0, float(one_us)), "block_us": max(0.0, float(block_us))}
