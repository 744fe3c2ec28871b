"""MLServer with a runtime of our own, in an environment of its own: its server, and a client process that times calls.

Its ordinary unary call, and its stream, which is meant for generated tokens but saves the opening of a call as gradwire's
streams do. Without its worker processes, metrics and access log, which would slow it down.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contenders.contender import Contender
from benchmarks.model import Array, Inputs

NAMES = {"MLServer": "unary", "MLServer stream": "stream"}

_ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def mlserver(environment: Path) -> Iterator[list[Contender]]:
    """MLServer, twice: by unary calls and on an open stream. Makes the environment if it is not there."""
    python = _python(environment)
    with tempfile.TemporaryDirectory(prefix="gradwire-bench-") as name:
        folder = Path(name)
        port = _configure(folder)
        log = folder / "log"
        with (
            _process([str(python.with_name("mlserver")), "start", str(folder)], log),
            _process([str(python), "-m", "benchmarks.mlserver.client", str(port)], log, talks=True) as client,
        ):
            pipe = _Pipe(client, log)
            versions = pipe.receive()
            yield [_Remote(name, way, pipe, versions) for name, way in NAMES.items()]


class _Pipe:
    """The way to the client process."""

    def __init__(self, client: subprocess.Popen[bytes], log: Path) -> None:
        self._client = client
        self._log = log

    def send(self, value: Any) -> None:
        assert self._client.stdin is not None
        pickle.dump(value, self._client.stdin)
        self._client.stdin.flush()

    def receive(self) -> Any:
        assert self._client.stdout is not None
        try:
            return pickle.load(self._client.stdout)
        except EOFError:
            raise RuntimeError(f"MLServer, or its client, failed:\n{self._log.read_text()}") from None


class _Remote:
    """A contender whose calls are made and timed by the client process."""

    def __init__(self, name: str, way: str, pipe: _Pipe, versions: Mapping[str, str]) -> None:
        self.name = name
        self.versions = versions
        self.operations: Collection[str] = ("predict", "loss_gradient")
        self._way = way
        self._pipe = pipe

    def answer(self, operation: str, inputs: Inputs) -> Array:
        answer: Array = self._ask(operation, inputs, 0)
        return answer

    def times_s(self, operation: str, inputs: Inputs, calls: int) -> list[float]:
        times: list[float] = self._ask(operation, inputs, calls) if calls else []
        return times

    def _ask(self, operation: str, inputs: Inputs, calls: int) -> Any:
        self._pipe.send((self._way, operation, len(inputs.x), calls))
        return self._pipe.receive()


def _python(environment: Path) -> Path:
    python = environment / "bin" / "python"
    if python.with_name("mlserver").exists():
        return python
    print(f"making {environment} for MLServer; this takes a minute or two", file=sys.stderr)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    # torch by itself and first, so that nothing else chooses its version.
    subprocess.run([*install, "-c", str(_ROOT / "constraints.txt"), "torch==2.13.0"], check=True)
    subprocess.run([*install, "-c", str(_ROOT / "constraints.txt"), "mlserver==1.7.1", "numpy"], check=True)
    return python


def _configure(folder: Path) -> int:
    """Writes MLServer's settings; returns the gRPC port."""
    http_port, grpc_port = _free_ports(2)
    settings = {
        "host": "127.0.0.1",
        "http_port": http_port,
        "grpc_port": grpc_port,
        "grpc_max_message_length": 64 << 20,
        "debug": False,
        "metrics_endpoint": None,
        "parallel_workers": 0,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "cnn", "implementation": "benchmarks.mlserver.runtime.Runtime"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    return grpc_port


def _free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in taken]
    for one in taken:
        one.close()
    return ports


@contextmanager
def _process(command: list[str], log: Path, talks: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, "PYTHONPATH": str(_ROOT)}
    pipe = subprocess.PIPE if talks else None
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=env, cwd=log.parent, stdin=pipe, stdout=pipe or output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
