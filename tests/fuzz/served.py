"""The servicers of a real model, as a server has them, for targets that bring their own streams."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from sklearn.linear_model import LogisticRegression

from gradwire.server.config.reading import parse_config
from gradwire.server.engines.engine import load_models
from gradwire.server.process.service import Service
from gradwire.server.services.operations import OPERATIONS
from gradwire.server.transport.same_host import SameHost

METHODS = (*(operation.method for operation in OPERATIONS), "Fit")

MODEL = "m"
FEATURES, CLASSES = 4, 3
LIMITS = {"max_tensor_bytes": 1 << 20, "max_held_bytes": 1 << 16, "max_message_bytes": 2 << 20, "fit_memory_bytes": 1 << 20}


def regression() -> LogisticRegression:
    """Three classes of four features, fitted."""
    generator = np.random.default_rng(0)
    return LogisticRegression(max_iter=20).fit(generator.normal(size=(60, FEATURES)), np.arange(60) % CLASSES)


@lru_cache(maxsize=1)
def loop() -> asyncio.AbstractEventLoop:
    """The loop that everything runs on. An error that nobody waits for is one all the same."""

    def raised(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        unseen.append(context)

    made = asyncio.new_event_loop()
    asyncio.set_event_loop(made)
    made.set_exception_handler(raised)
    return made


unseen: list[dict[str, Any]] = []
"""What the loop was told that nobody waited for."""


@lru_cache(maxsize=1)
def same_host() -> SameHost:
    """Handlers and same-host socket of a whole server."""
    model = {"name": MODEL, "backend": "sklearn", "factory": regression, "input_shape": [FEATURES], "nb_classes": CLASSES,
             "access": "trainer", "max_batch_rows": 8}  # fmt: skip
    content = {"listen": "127.0.0.1:0", "models": [model], "limits": LIMITS}
    config = parse_config(content, Path(tempfile.mkdtemp(prefix="gradwire-fuzz-")), "fuzz")

    async def started() -> Service:
        service = Service(config, load_models(config))
        await service.start()
        return service

    return loop().run_until_complete(started())._same_host


def ended_well(code: object, text: str) -> None:
    """Raises AssertionError if a status says that the server failed: a bug, whatever was sent."""
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    # A model may fail on what it is given, and that is said of it.
    assert number != grpc.StatusCode.UNKNOWN.value[0], text
    assert number != grpc.StatusCode.INTERNAL.value[0] or text.startswith("the model raised"), text


@contextlib.contextmanager
def nothing_unseen() -> Any:
    """Raises AssertionError if the loop was told of an error that nobody waited for."""
    unseen.clear()
    yield
    assert not unseen, unseen
