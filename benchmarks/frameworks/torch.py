"""The factory and plain code of torch, from the benchmark of all operations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.plain import plain
from benchmarks.frameworks.setup import PLAIN, Setup, cnn_keys
from benchmarks.model import CONV_LAYER


def setups(_: Path) -> list[Setup]:
    """Sets up the CNN."""
    keys = {
        "backend": "torch",
        "factory": "benchmarks.model:cnn",
        "loss": "torch.nn.CrossEntropyLoss",
        **cnn_keys(channels_last=False),
    }
    return [Setup("torch", keys, _plain, conv_layer=CONV_LAYER)]


@contextmanager
def _plain() -> Iterator[Contender]:
    with plain() as contender:
        contender.name = PLAIN
        yield contender
