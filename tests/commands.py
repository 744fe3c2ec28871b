"""The command ``gradwire`` as processes, for tests of it. Each is ended by its own process id."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).parent
START_TIMEOUT_S = 60


def environment(**changes: str) -> dict[str, str]:
    """Of processes under test: the tests' models can be imported, tables are wide, threads few."""
    own = {"PYTHONPATH": str(TESTS), "COLUMNS": "200", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return {**os.environ, **own, **changes}


def gradwire(*arguments: str, timeout_s: float = 60, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    command = [sys.executable, "-m", "gradwire.client.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment(**changes), check=False)


@contextmanager
def gradwire_serve(config: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Runs ``gradwire serve``; yields its address and the process."""
    command = [sys.executable, "-m", "gradwire.client.cli", "serve", str(config), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        yield _address(process), process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(START_TIMEOUT_S) else ""
    assert line.startswith("serving on "), f"expected the line 'serving on ...'; got {line!r}"
    return line.removeprefix("serving on ").split(" ")[0]
