"""A client process of tesseract-core: ``python -m benchmarks.tesseract.client PORT``; see `benchmarks.contenders.worker`."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import requests
from tesseract_core import Tesseract

from benchmarks.contenders.contender import Function
from benchmarks.contenders.worker import work
from benchmarks.model import Array, Inputs, inputs

_READY_S = 60


class Calls:
    """The operations, by tesseract-core's own client."""

    def __init__(self, tesseract: Any) -> None:
        self._tesseract = tesseract
        self.functions: dict[str, Function] = {"predict": self.predict, "loss_gradient": self.loss_gradient}

    def predict(self, inputs: Inputs) -> Array:
        return np.asarray(self._tesseract.apply({"x": inputs.x, "y": inputs.y})["outputs"])

    def loss_gradient(self, inputs: Inputs) -> Array:
        given = {"x": inputs.x, "y": inputs.y}
        return np.asarray(self._tesseract.vector_jacobian_product(given, ["x"], ["loss"], {"loss": np.float32(1)})["x"])


def main(port: int) -> None:
    """Connects, and does what it is told until stdin ends."""
    url = f"http://127.0.0.1:{port}"
    _wait(url)
    ways = {"http": Calls(Tesseract.from_url(url)).functions}
    work(ways, inputs, {"tesseract-core": version("tesseract-core")})


def _wait(url: str) -> None:
    until_s = time.monotonic() + _READY_S
    while True:
        try:
            if requests.get(f"{url}/health", timeout=1).ok:
                return
        except requests.ConnectionError:
            if time.monotonic() > until_s:
                raise
        time.sleep(0.2)


if __name__ == "__main__":
    main(int(sys.argv[1]))
