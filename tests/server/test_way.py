"""Length of a call's way: hand-overs between files, counted in a trace of one real call."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from commands import environment

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("way", ["Unix socket", "gRPC"])
def test_a_loss_gradient_is_handed_over_at_most_95_times_and_enters_no_file_of_the_server_more_than_4_times(way: str) -> None:
    command = [sys.executable, "-m", "benchmarks.way", "--json", *(["--grpc"] if way == "gRPC" else [])]
    traced = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    steps: dict[str, list[tuple[str, str, str]]] = json.loads(traced.stdout)
    assert sum(map(len, steps.values())) <= 95
    entered = Counter(called for _, called, _ in steps["server"])
    # Every stage is in the trace.
    assert {"services/admission.py", "services/operations.py", "trust/budgets/charges.py", "scheduling/scheduler.py"} <= {
        called.removeprefix("server/gradwire/server/") for called in entered
    }
    assert {file: times for file, times in entered.items() if file.startswith("server/") and times > 4} == {}
