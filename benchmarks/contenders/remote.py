"""Contenders that are called and timed by a client process of their own; see `benchmarks.contenders.worker`."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contenders.worker import Ask, Loop, Times
from benchmarks.model import Array, Inputs

ROOT = Path(__file__).resolve().parents[2]


class Pipe:
    """Messages to and from a client process.

    Args:
        process: The process, which runs `benchmarks.contenders.worker.work`.
        log: The file that it, and maybe its server, write to.
        name: Their name in errors.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, name: str) -> None:
        self._process = process
        self._log = log
        self._name = name
        self.versions: Mapping[str, str] = {}

    def ready(self) -> None:
        """Waits until the process has connected. Raises RuntimeError if the process or its server has failed."""
        self.versions = self.receive()

    def ask(self, question: Ask | Times | Loop) -> Any:
        """Sends a request and returns the answer. Raises RuntimeError if the process has failed."""
        self.send(question)
        return self.receive()

    def send(self, question: Ask | Times | Loop) -> None:
        """Sends a request."""
        assert self._process.stdin is not None
        pickle.dump(question, self._process.stdin)
        self._process.stdin.flush()

    def receive(self) -> Any:
        """Waits for an answer. Raises RuntimeError if the process has failed."""
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except EOFError:
            raise RuntimeError(f"{self._name} or its client failed:\n{self._log.read_text()[-4000:]}") from None


class Remote:
    """A contender that is called by a client process.

    Args:
        name: Its name in reports.
        way: The client's way of calling.
        pipe: Messages to the client.
        operations: The operations that it implements.
    """

    def __init__(self, name: str, way: str, pipe: Pipe, operations: Collection[str]) -> None:
        self.name = name
        self.versions = pipe.versions
        self.operations = operations
        self._way = way
        self._pipe = pipe

    def answer(self, operation: str, inputs: Inputs) -> Array:
        """Makes one call and returns its result."""
        answer: Array = self._pipe.ask(Ask(self._way, operation, len(inputs.x), inputs.batch_size))
        return answer

    def times_s(self, operation: str, inputs: Inputs, calls: int) -> list[float]:
        """Makes a number of calls and returns the seconds that each took."""
        if not calls:
            return []
        times: list[float] = self._pipe.ask(Times(self._way, operation, len(inputs.x), inputs.batch_size, calls))
        return times


@contextmanager
def client(command: Sequence[str], log: Path, name: str) -> Iterator[Pipe]:
    """Runs a client process during the context; `Pipe.ready` waits for it."""
    with process(command, log, talks=True) as started:
        yield Pipe(started, log, name)


@contextmanager
def process(command: Sequence[str], log: Path, talks: bool = False, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a process that can import the benchmarks during the context.

    Args:
        command: Its command; it runs in the folder of the log.
        log: File for its stderr, and for its stdout unless ``talks``.
        talks: True if stdin and stdout are pipes.
        **environ: Further variables of its environment.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, **environ}
    pipe = subprocess.PIPE if talks else None
    with log.open("ab") as output:
        started = subprocess.Popen(command, env=env, cwd=log.parent, stdin=pipe, stdout=pipe or output, stderr=output)
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.communicate()


def environment(folder: Path, packages: Sequence[str], constrained: bool = True) -> Path:
    """Makes an environment with torch and a peer, unless it exists, and returns the path of its Python.

    Args:
        folder: Folder of the environment.
        packages: Packages to install beside torch.
        constrained: True if constraints.txt applies to them.
    """
    python = folder / "bin" / "python"
    made = folder / ".made"
    if made.exists():
        return python
    print(f"making {folder}; this takes a minute or two", file=sys.stderr)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    # torch alone and first, so that no other package chooses its version.
    subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), "torch==2.13.0"], check=True)
    constraints = ["-c", str(ROOT / "constraints.txt")] if constrained else []
    subprocess.run([*install, *constraints, "torch==2.13.0", *packages], check=True)
    made.touch()
    return python


def free_ports(count: int) -> list[int]:
    """Finds loopback ports that are not in use."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in taken]
    for one in taken:
        one.close()
    return ports
