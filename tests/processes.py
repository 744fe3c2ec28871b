"""Real server processes, ended by their own pid."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from commands import environment


class ServerProcess:
    """A server process that has said where it serves.

    Attributes:
        process: The process.
        address: What to connect to.
        log: The file that its log goes to.
    """

    def __init__(self, process: subprocess.Popen[str], address: str, log: Path) -> None:
        self.process = process
        self.address = address
        self.log = log

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
def server_process(
    folder: Path, models: list[dict[str, Any]], *, python: Path | None = None, prefix: Sequence[str] = (), **settings: Any
) -> Iterator[ServerProcess]:
    """``gradwire serve`` on a free loopback port, as long as the context lasts. Factories may name modules of tests/.

    ``python`` is the interpreter of another environment to run it in; ``prefix`` a command that runs it elsewhere.
    """
    config = folder / "server.yaml"
    config.write_text(yaml.safe_dump({"listen": "127.0.0.1:0", **settings, "models": models}))
    with gradwire_serve(config, python=python, prefix=prefix) as server:
        yield server


@contextmanager
def gradwire_serve(
    config: Path, *arguments: str, python: Path | None = None, prefix: Sequence[str] = ()
) -> Iterator[ServerProcess]:
    """``gradwire serve`` with a file and options of its own, as long as the context lasts."""
    command = [*prefix, str(python or sys.executable), "-m", "gradwire.client.cli", "serve", str(config), *arguments]
    log = config.with_name("stderr.log")
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment())
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"serving on (\S+)", line)
        assert found, (line, log.read_text())
        yield ServerProcess(process, found[1], log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
