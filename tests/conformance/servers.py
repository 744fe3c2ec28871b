"""Servers of a body of cases: one for the frameworks that go together, each started when a test first asks for it.

A run of one backend's tests, or a process that has that backend's share of a whole run, imports no other framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from environments import MXNET, python_of
from processes import server_process

from gradwire.client import Server, connect
from gradwire.server import serving

SERVERS = {
    "torch": ("torch", "sklearn", "gpy", "blackbox", "ensemble"),
    "tensorflow": ("tensorflow", "keras", "tensorflow_v1"),
    "jax": ("jax",),
    MXNET: (MXNET,),
}
"""The backends that are served together."""


def server_of(backend: str) -> str:
    """The one of ``SERVERS`` that serves a backend."""
    return next(name for name, backends in SERVERS.items() if backend in backends)


@contextmanager
def servers(folder: Path, served: Callable[[str], dict[str, dict[str, Any]]]) -> Iterator[Callable[[str], Server]]:
    """``connected(backend)``: the server that has a backend's models; ``served(name)`` are those of one of ``SERVERS``."""
    with ExitStack() as running:
        started: dict[str, Server] = {}

        def start(name: str) -> str:
            if name != MXNET:
                return running.enter_context(serving(served(name)))
            models = [{"name": model, **config} for model, config in served(name).items()]
            return running.enter_context(server_process(folder, models, python=python_of(name))).address

        def connected(backend: str) -> Server:
            name = server_of(backend)
            if name not in started:
                started[name] = running.enter_context(connect(start(name)))
            return started[name]

        yield connected
