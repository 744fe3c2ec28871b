"""Count of the hand-overs between files that one real call takes: ``python -m benchmarks.way``.

A server and a client run in one process, on threads of their own, with a profile hook in each. A hand-over is a call from a
function of one file to a function of another; library code between the two is left out. A coroutine counts when it begins, and
not when it resumes. Generated code does not count, nor do the threads that write the ledger. The shortest of several traces
counts: now and then a timer of the server falls into one.
"""

from __future__ import annotations

import argparse
import dis
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np

from gradwire.client import connect
from gradwire.server import serving

ROOT = Path(__file__).parent.parent
STORE_THREADS = ("gradwire-ledger", "gradwire-store")
SOURCES = tuple(f"{ROOT / folder}/" for folder in ("client", "server", "backends", "proto"))


def network() -> Any:
    """A small CNN for rows of 1 x 8 x 8: the factory of the served model."""
    from torch import nn

    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


_ENDING_S = 0.05
"""Time for the server to end a call after its answer."""


class Way:
    """The hand-overs of one call, by side.

    Attributes:
        steps: Of the client and of the server: file that calls, file that is called, function.
    """

    def __init__(self) -> None:
        self.steps: dict[str, list[tuple[str, str, str]]] = {"client": [], "server": []}
        self._client = threading.get_ident()
        self._on = False
        self._files: dict[CodeType, str] = {}

    def hook(self, frame: FrameType, event: str, _: Any) -> None:
        """Profile hook of a thread: records calls between files of gradwire."""
        if event != "call" or not self._on or threading.current_thread().name.startswith(STORE_THREADS):
            return
        called = self._file(frame.f_code)
        # A frame that resumes stands behind its first instructions.
        if not called or frame.f_lasti > _first(frame.f_code):
            return
        caller = self._caller(frame)
        if caller != called:
            side = "client" if threading.get_ident() == self._client else "server"
            self.steps[side].append((caller, called, frame.f_code.co_name))

    @contextmanager
    def on(self) -> Iterator[None]:
        """Records while the context lasts."""
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def _caller(self, frame: FrameType) -> str:
        back = frame.f_back
        while back is not None:
            if file := self._file(back.f_code):
                return file
            back = back.f_back
        return ""

    def _file(self, code: CodeType) -> str:
        file = self._files.get(code)
        if file is None:
            name = code.co_filename
            file = name.removeprefix(f"{ROOT}/") if name.startswith(SOURCES) and "_pb2" not in name else ""
            self._files[code] = file
        return file


def _first(code: CodeType) -> int:
    """Offset of the last instruction that a function passes before its body begins."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "RESUME":
            return instruction.offset
    return 0


def trace(grpc: bool) -> Way:
    """Traces loss gradients of one row, and returns the shortest trace.

    Args:
        grpc: Over gRPC; otherwise over the server's Unix socket.
    """
    ways: list[Way] = []

    def hook(frame: FrameType, event: str, argument: Any) -> None:
        if ways:
            ways[-1].hook(frame, event, argument)

    threading.setprofile(hook)
    model = {"backend": "torch", "factory": "benchmarks.way:network", "loss": "torch.nn.CrossEntropyLoss"}
    shape = {"input_shape": [1, 8, 8], "nb_classes": 10}
    x, y = np.zeros((1, 1, 8, 8), np.float32), np.array([3])
    with serving({"net": model | shape}) as address, connect(address, same_host=not grpc) as server:
        estimator = server.estimator("net")
        for _ in range(20):
            estimator.loss_gradient(x, y)
        for _ in range(5):
            time.sleep(_ENDING_S)
            way = Way()
            ways.append(way)
            sys.setprofile(way.hook)
            with way.on():
                estimator.loss_gradient(x, y)
                time.sleep(_ENDING_S)
            sys.setprofile(None)
    threading.setprofile(None)  # type: ignore[arg-type]
    return min(ways, key=lambda way: sum(map(len, way.steps.values())))


def main() -> None:
    """Prints the counts, or with ``--steps`` each hand-over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--grpc", action="store_true", help="over gRPC in place of the Unix socket")
    parser.add_argument("--steps", action="store_true", help="print every hand-over in order")
    parser.add_argument("--json", action="store_true", help="print the hand-overs as JSON")
    args = parser.parse_args()
    way = trace(args.grpc)
    if args.json:
        print(json.dumps(way.steps))
        return
    for side, steps in way.steps.items():
        if args.steps:
            print(f"{side}:")
            for caller, called, function in steps:
                print(f"  {caller or '(library)'} -> {called}: {function}")
        entered = Counter(called for _, called, _ in steps)
        print(f"{side}: {len(steps)} hand-overs into {len(entered)} files; most: {entered.most_common(8)}")
    print(f"in all: {sum(map(len, way.steps.values()))} hand-overs")


if __name__ == "__main__":
    main()
