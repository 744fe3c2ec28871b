"""tesseract-core in an environment of its own, served without a container."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.mlserver import OPERATIONS
from benchmarks.contenders.remote import ROOT, Remote, client, environment, free_ports, process

NAME = "tesseract-core"


@contextmanager
def tesseract() -> Iterator[list[Contender]]:
    """Its server with one worker. Makes the environment if it is not there: 1.2 GB."""
    python = environment(ROOT / ".venv-tesseract", ["tesseract-core[runtime]==1.15.0"])
    with tempfile.TemporaryDirectory(prefix="gradwire-bench-") as name:
        log = Path(name) / "log"
        (port,) = free_ports(1)
        serve = [str(python.with_name("tesseract-runtime")), "serve", "--host", "127.0.0.1", "--port", str(port)]
        api = str(ROOT / "benchmarks" / "tesseract" / "tesseract_api.py")
        with (
            process(serve, log, TESSERACT_API_PATH=api),
            client([str(python), "-m", "benchmarks.tesseract.client", str(port)], log, NAME) as pipe,
        ):
            pipe.ready()
            yield [Remote(NAME, "http", pipe, OPERATIONS)]
