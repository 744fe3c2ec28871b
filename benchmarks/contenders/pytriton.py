"""PyTriton, which brings Triton, in an environment of its own: arrays in messages, and arrays in shared memory."""

from __future__ import annotations

import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.mlserver import OPERATIONS
from benchmarks.contenders.remote import ROOT, Remote, client, environment, free_ports, process

NAMES = {"PyTriton": "messages", "PyTriton shared memory": "shared"}


@contextmanager
def pytriton() -> Iterator[list[Contender]]:
    """PyTriton, twice. Makes the environment if it is not there: 1.3 GB."""
    # Not constrained: it wants an older numpy than the others.
    python = environment(ROOT / ".venv-pytriton", ["nvidia-pytriton==0.7.0"], constrained=False)
    with tempfile.TemporaryDirectory(prefix="gradwire-bench-") as name:
        log = Path(name) / "log"
        http_port, grpc_port = free_ports(2)
        ports = [str(http_port), str(grpc_port)]
        serve = [str(python), "-m", "benchmarks.pytriton.server", *ports, str(Path(name) / "workspace")]
        # Triton's processes load Python as a library: this one's, or its standard library does not fit.
        library = str(sysconfig.get_config_var("LIBDIR"))
        with (
            process(serve, log, LD_LIBRARY_PATH=library),
            client([str(python), "-m", "benchmarks.pytriton.client", str(grpc_port)], log, "PyTriton") as pipe,
        ):
            pipe.ready()
            yield [Remote(name, way, pipe, OPERATIONS) for name, way in NAMES.items()]
