"""The peers that are measured when they are asked for, by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.pytriton import pytriton
from benchmarks.contenders.tesseract import tesseract


@dataclass(frozen=True)
class Peer:
    """A peer: how it is started, in one way or several."""

    contenders: Callable[[], AbstractContextManager[list[Contender]]]


PEERS = {"pytriton": Peer(pytriton), "tesseract": Peer(tesseract)}
