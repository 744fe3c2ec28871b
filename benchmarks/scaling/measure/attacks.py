"""Time of an ART attack's own arithmetic between two calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from art.attacks.evasion import HopSkipJump, ProjectedGradientDescent

from benchmarks.scaling.measure.models import entry
from benchmarks.scaling.measure.server import watched
from gradwire.client import connect
from gradwire.client.art import art_estimator

_STEPS = 10
_REPEATS = 4


class Timed:
    """Counts and times the operations of a remote estimator."""

    def __init__(self, remote: Any) -> None:
        self.calls, self.rows, self.seconds = 0, 0, 0.0
        for name in ("predict", "loss_gradient"):
            setattr(type(remote), name, self._timed(getattr(type(remote), name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(remote: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
            began_s = time.perf_counter()
            answer = function(remote, x, *args, **kwargs)
            self.seconds += time.perf_counter() - began_s
            self.calls += 1
            self.rows += len(x)
            return answer

        return timed


def attacks() -> dict[str, dict[str, float]]:
    """Measures, by kind of client, the microseconds between calls, and the numbers of calls and rows."""
    with watched([entry("small", 32), entry("large", 224)]) as server, connect(server.address) as connection:
        small, large = connection.estimator("small"), connection.estimator("large")
        timed = Timed(small)
        pgd: dict[str, Any] = {"eps": 0.1, "eps_step": 0.02, "max_iter": _STEPS, "verbose": False}
        jump = HopSkipJump(art_estimator(small), max_iter=5, max_eval=200, init_eval=10, verbose=False)
        return {
            "query": _between(timed, jump, small, 4),
            "pgd128": _between(timed, ProjectedGradientDescent(art_estimator(small), batch_size=128, **pgd), small, 128),
            "pgd64": _between(timed, ProjectedGradientDescent(art_estimator(large), batch_size=64, **pgd), large, 64),
        }


def _between(timed: Timed, attack: Any, remote: Any, rows: int) -> dict[str, float]:
    x = np.random.default_rng(0).random((rows, *remote.card.input_shape), np.float32)
    y = np.eye(10, dtype=np.float32)[np.arange(rows) % 10]
    given = () if isinstance(attack, HopSkipJump) else (y,)
    attack.generate(x, *given)
    found = []
    for _ in range(_REPEATS):
        timed.calls, timed.rows, timed.seconds = 0, 0, 0.0
        began_s = time.perf_counter()
        attack.generate(x, *given)
        passed_s = time.perf_counter() - began_s
        found.append((1e6 * (passed_s - timed.seconds) / timed.calls, timed.calls, timed.rows / timed.calls))
    attack_us, calls, rows_a_call = min(found)
    return {"attack_us": attack_us, "calls": float(calls), "rows_a_call": rows_a_call}
