"""A contender whose calls are made and timed by a client process of its own, which `benchmarks.contenders.worker` runs."""

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
    """The way to a client process.

    Args:
        process: That runs `benchmarks.contenders.worker.work`.
        log: What it, and maybe its server, have written.
        name: What to call them in errors.
    """

    def __init__(self, process: subprocess.Popen[bytes], log: Path, name: str) -> None:
        self._process = process
        self._log = log
        self._name = name
        self.versions: Mapping[str, str] = {}

    def ready(self) -> None:
        """Waits until the process has connected. Raises RuntimeError if it, or its server, has failed."""
        self.versions = self.receive()

    def ask(self, question: Ask | Times | Loop) -> Any:
        """What it answers. Raises RuntimeError if it has failed."""
        self.send(question)
        return self.receive()

    def send(self, question: Ask | Times | Loop) -> None:
        assert self._process.stdin is not None
        pickle.dump(question, self._process.stdin)
        self._process.stdin.flush()

    def receive(self) -> Any:
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except EOFError:
            raise RuntimeError(f"{self._name}, or a client of it, failed:\n{self._log.read_text()[-4000:]}") from None


class Remote:
    """A contender at the other end of a pipe.

    Args:
        name: In reports.
        way: By which of its ways the client calls.
        pipe: To the client.
        operations: What it can do.
    """

    def __init__(self, name: str, way: str, pipe: Pipe, operations: Collection[str]) -> None:
        self.name = name
        self.versions = pipe.versions
        self.operations = operations
        self._way = way
        self._pipe = pipe

    def answer(self, operation: str, inputs: Inputs) -> Array:
        answer: Array = self._pipe.ask(Ask(self._way, operation, len(inputs.x), inputs.batch_size))
        return answer

    def times_s(self, operation: str, inputs: Inputs, calls: int) -> list[float]:
        if not calls:
            return []
        times: list[float] = self._pipe.ask(Times(self._way, operation, len(inputs.x), inputs.batch_size, calls))
        return times


@contextmanager
def client(command: Sequence[str], log: Path, name: str) -> Iterator[Pipe]:
    """A client process, as long as the context lasts; `Pipe.ready` waits for it."""
    with process(command, log, talks=True) as started:
        yield Pipe(started, log, name)


@contextmanager
def process(command: Sequence[str], log: Path, talks: bool = False, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that can import the benchmarks, as long as the context lasts.

    Args:
        command: To run, in the folder of the log.
        log: Where its stderr goes, and its stdout too unless it talks.
        talks: Whether stdin and stdout are pipes.
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
    """The Python of an environment that holds torch and a peer; made if it is not there.

    Args:
        folder: Of the environment.
        packages: Beside torch.
        constrained: Whether constraints.txt holds for them.
    """
    python = folder / "bin" / "python"
    made = folder / ".made"
    if made.exists():
        return python
    print(f"making {folder}; this takes a minute or two", file=sys.stderr)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    # torch by itself and first, so that nothing else chooses its version.
    subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), "torch==2.13.0"], check=True)
    constraints = ["-c", str(ROOT / "constraints.txt")] if constrained else []
    subprocess.run([*install, *constraints, "torch==2.13.0", *packages], check=True)
    made.touch()
    return python


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on now."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in taken]
    for one in taken:
        one.close()
    return ports
