"""Peers that are measured on request, by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks.contenders.contender import Contender
from benchmarks.contenders.pytriton import pytriton
from benchmarks.contenders.tesseract import tesseract

PEERS: dict[str, Callable[[], AbstractContextManager[list[Contender]]]] = {"pytriton": pytriton, "tesseract": tesseract}
