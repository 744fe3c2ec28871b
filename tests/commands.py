"""The command ``gradwire`` run to its end, for tests of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).parent


def environment(**changes: str) -> dict[str, str]:
    """Of processes under test: the tests' models can be imported, tables are wide, threads few."""
    own = {"PYTHONPATH": str(TESTS), "COLUMNS": "200", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return {**os.environ, **own, **changes}


def gradwire(
    *arguments: str, timeout_s: float = 60, python: Path | None = None, prefix: Sequence[str] = (), **changes: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; ``python`` is the interpreter of another environment, ``prefix`` a command to run it with."""
    command = [*prefix, str(python or sys.executable), "-m", "gradwire.client.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment(**changes), check=False)
