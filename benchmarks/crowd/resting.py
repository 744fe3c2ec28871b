"""Clients that are connected and idle: ``python -m benchmarks.crowd.resting ADDRESS CLIENTS SAME_HOST``.

Each has a connection with an open stream. They call once when they connect, and once more for each line on stdin. The answer is the
number of calls that failed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.contenders.remote import process
from benchmarks.subject import CNN
from gradwire.client import RemoteEstimator, connect
from gradwire.client.errors import GradwireError


class Resting:
    """The process of the idle clients."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout, self._log = process.stdin, process.stdout, log

    def call_again(self) -> int:
        """Makes one call of each client; returns the number that failed."""
        self._stdin.write(b"\n")
        self._stdin.flush()
        return self.answer()

    def answer(self) -> int:
        """Waits for the number of failed calls. Raises RuntimeError if the process has failed."""
        line = self._stdout.readline()
        if not line:
            raise RuntimeError(f"the process of idle clients failed:\n{self._log.read_text()[-4000:]}")
        return int(line)


@contextmanager
def resting(address: str, clients: int, same_host: bool, log: Path) -> Iterator[Resting]:
    """Runs a number of idle clients during the context. Raises RuntimeError if a client cannot connect."""
    command = [sys.executable, "-m", "benchmarks.crowd.resting", address, str(clients), str(int(same_host))]
    with process(command, log, talks=True) as started:
        them = Resting(started, log)
        if failed := them.answer():
            raise RuntimeError(f"{failed} of {clients} clients could not make their first call:\n{log.read_text()[-4000:]}")
        yield them


def main(address: str, clients: str, same_host: str) -> None:
    """Connects all clients and calls once for each line until stdin ends."""
    row = CNN.inputs(1)
    with ExitStack() as stack:
        servers = [stack.enter_context(connect(address, same_host=same_host == "1")) for _ in range(int(clients))]
        card = servers[0].card(CNN.name)
        estimators = [RemoteEstimator(server, card) for server in servers]
        while True:
            print(sum(not _answered(estimator, row.x) for estimator in estimators), flush=True)
            if not sys.stdin.readline():
                return


def _answered(estimator: RemoteEstimator, x: object) -> bool:
    try:
        estimator.predict(x)
    except GradwireError as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
