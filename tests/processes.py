"""Real server processes, ended by their own pid."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).parent


class ServerProcess:
    """A server process that has said where it serves.

    Attributes:
        process: The process.
        address: What to connect to.
    """

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.address = address

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def rss_bytes(self) -> int:
        """Memory that the process holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def peak_bytes(self) -> int:
        """Most memory that the process has held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


@contextmanager
def server_process(folder: Path, models: list[dict[str, Any]], **settings: Any) -> Iterator[ServerProcess]:
    """``gradwire serve`` on a free loopback port, as long as the context lasts. Factories may name modules of tests/."""
    config = folder / "server.yaml"
    config.write_text(yaml.safe_dump({"listen": "127.0.0.1:0", **settings, "models": models}))
    command = [sys.executable, "-m", "gradwire.client.cli", "serve", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    with (folder / "stderr.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"serving on (\S+)", line)
        assert found, (line, (folder / "stderr.log").read_text())
        yield ServerProcess(process, found[1])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
