"""MLServer with a runtime of our own, in an environment of its own: its server, and client processes that time calls.

Its ordinary unary call, and its stream, which is meant for generated tokens but saves the opening of a call as gradwire's
streams do. Without its worker processes, metrics and access log, which would slow it down.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.remote import ROOT, Remote, client, environment, free_ports, process

NAMES = {"MLServer": "unary", "MLServer stream": "stream"}
OPERATIONS = ("predict", "loss_gradient")

ENVIRONMENT = ROOT / ".venv-mlserver"


@contextmanager
def mlserver(folder: Path = ENVIRONMENT) -> Iterator[list[Contender]]:
    """MLServer, twice: by unary calls and on an open stream. Makes the environment if it is not there."""
    with served(folder) as (command, log), client(command, log, "MLServer") as pipe:
        pipe.ready()
        yield [Remote(name, way, pipe, OPERATIONS) for name, way in NAMES.items()]


@contextmanager
def served(folder: Path = ENVIRONMENT) -> Iterator[tuple[Sequence[str], Path]]:
    """Its server, as long as the context lasts; yields the command of a client process, and where they may log."""
    python = environment(folder, ["mlserver==1.7.1", "numpy"])
    with tempfile.TemporaryDirectory(prefix="gradwire-bench-") as name:
        settings = Path(name)
        port = _configure(settings)
        log = settings / "log"
        with process([str(python.with_name("mlserver")), "start", str(settings)], log):
            yield (str(python), "-m", "benchmarks.mlserver.client", str(port)), log


def _configure(folder: Path) -> int:
    """Writes MLServer's settings; returns the gRPC port."""
    http_port, grpc_port = free_ports(2)
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
