"""MXNet: server and plain code run in an environment of its own."""

from __future__ import annotations

import pickle
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders.contender import Contender
from benchmarks.frameworks.setup import PLAIN, Setup, cnn_keys, factory
from benchmarks.model import Array, Inputs

_ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = _ROOT / ".venv-mxnet" / "bin"


def setups(weights: Path) -> list[Setup]:
    """Sets up the CNN."""
    keys = {
        "backend": "mxnet",
        "factory": factory("benchmarks.frameworks.mxnet_plain:cnn", weights),
        "loss": "mxnet.gluon.loss.SoftmaxCrossEntropyLoss",
        **cnn_keys(channels_last=False),
    }
    plain = partial(_plain, weights)
    return [Setup("mxnet", keys, plain, conv_layer="conv1", environment=PROGRAMS, plain_module="mxnet_plain")]


@contextmanager
def _plain(weights: Path) -> Iterator[Contender]:
    command = [str(PROGRAMS / "python"), "-m", "benchmarks.frameworks.mxnet_plain", str(weights)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        try:
            yield _Remote(process, log)
        finally:
            process.terminate()
            process.communicate(timeout=30)


class _Remote:
    """A contender that is called and timed by another process."""

    name = PLAIN

    def __init__(self, process: subprocess.Popen[bytes], log: Any) -> None:
        self._process = process
        self._log = log
        operations, versions = self._receive()
        self.operations: Collection[str] = operations
        self.versions: Mapping[str, str] = versions

    def answer(self, operation: str, inputs: Inputs) -> Array:
        answer: Array = self._ask(operation, inputs, 0)
        return answer

    def times_s(self, operation: str, inputs: Inputs, calls: int) -> list[float]:
        times: list[float] = self._ask(operation, inputs, calls) if calls else []
        return times

    def _ask(self, operation: str, inputs: Inputs, calls: int) -> Any:
        assert self._process.stdin is not None
        pickle.dump((operation, len(inputs.x), calls), self._process.stdin)
        self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> Any:
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except EOFError:
            self._log.seek(0)
            raise RuntimeError(f"plain MXNet failed:\n{self._log.read().decode()}") from None
