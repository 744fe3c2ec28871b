"""tesseract-core without a container, in an environment of its own: contender, server and client process.

tesseract-runtime loads this file as its ``tesseract_api.py`` and takes `apply`, `vector_jacobian_product` and the two schemas from
it. ``python -m benchmarks.contenders.tesseract PORT`` is a client process; see `benchmarks.contenders.worker`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contenders.contender import PEER_OPERATIONS, Contender, Function
from benchmarks.contenders.remote import ROOT, Remote, client, environment, free_ports, process
from benchmarks.contenders.worker import wait_for, work
from benchmarks.model import INPUT_SHAPE, NB_CLASSES, Array, Inputs, cnn, inputs

if TYPE_CHECKING:
    from torch import nn

NAME = "tesseract-core"


@contextmanager
def tesseract() -> Iterator[list[Contender]]:
    """Runs the server with one worker and yields one contender. Makes its environment, 1.2 GB, if there is none."""
    python = environment(ROOT / ".venv-tesseract", ["tesseract-core[runtime]==1.15.0"])
    with tempfile.TemporaryDirectory(prefix="gradwire-bench-") as name:
        log = Path(name) / "log"
        (port,) = map(str, free_ports(1))
        serve = [str(python.with_name("tesseract-runtime")), "serve", "--host", "127.0.0.1", "--port", port]
        with (
            process(serve, log, TESSERACT_API_PATH=__file__),
            client([str(python), "-m", "benchmarks.contenders.tesseract", port], log, NAME) as pipe,
        ):
            pipe.ready()
            yield [Remote(NAME, "http", pipe, PEER_OPERATIONS)]


# The server, in tesseract-core's environment.


def __getattr__(name: str) -> Any:
    """Makes the schemas when tesseract-runtime asks for them: only its environment has their types."""
    if name not in ("InputSchema", "OutputSchema"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _schemas()[name]


@cache
def _schemas() -> dict[str, Any]:
    from pydantic import create_model
    from tesseract_core.runtime import Array, Differentiable, Float32, Int64

    rows = Differentiable[Array[(None, *INPUT_SHAPE), Float32]]
    outputs = Array[(None, NB_CLASSES), Float32]
    return {
        "InputSchema": create_model("InputSchema", x=(rows, ...), y=(Array[(None,), Int64], ...)),
        "OutputSchema": create_model("OutputSchema", outputs=(outputs, ...), loss=(Differentiable[Float32], ...)),
    }


@cache
def _module() -> nn.Module:
    return cnn().eval().requires_grad_(False)


def apply(inputs: Any) -> Any:
    """Computes the outputs and the mean loss."""
    import torch
    from torch.nn import functional

    # Made out here: a module made in inference mode has no gradients.
    module = _module()
    with torch.inference_mode():
        outputs = module(torch.from_numpy(inputs.x.copy()))
        loss = functional.cross_entropy(outputs, torch.from_numpy(inputs.y.copy())).item()
        return _schemas()["OutputSchema"](outputs=outputs.numpy(), loss=loss)


def vector_jacobian_product(
    inputs: Any, vjp_inputs: set[str], vjp_outputs: set[str], cotangent_vector: dict[str, Any]
) -> dict[str, Any]:
    """Computes the gradient of the loss."""
    import torch
    from torch.nn import functional

    leaf = torch.from_numpy(inputs.x.copy()).requires_grad_()
    loss = functional.cross_entropy(_module()(leaf), torch.from_numpy(inputs.y.copy()))
    gradient = torch.autograd.grad(loss, leaf, torch.as_tensor(float(cotangent_vector["loss"])))[0]
    return {"x": gradient.numpy()}


# A client process, in tesseract-core's environment.


class _Calls:
    """The operations, made with tesseract-core's own client."""

    def __init__(self, served: Any) -> None:
        self._served = served
        self.functions: dict[str, Function] = {"predict": self.predict, "loss_gradient": self.loss_gradient}

    def predict(self, inputs: Inputs) -> Array:
        return np.asarray(self._served.apply({"x": inputs.x, "y": inputs.y})["outputs"])

    def loss_gradient(self, inputs: Inputs) -> Array:
        given = {"x": inputs.x, "y": inputs.y}
        return np.asarray(self._served.vector_jacobian_product(given, ["x"], ["loss"], {"loss": np.float32(1)})["x"])


def main(port: str) -> None:
    """Connects to the server and makes the calls it is asked for until stdin ends."""
    import requests
    from tesseract_core import Tesseract

    url = f"http://127.0.0.1:{port}"
    wait_for(lambda: bool(requests.get(f"{url}/health", timeout=1).ok), requests.ConnectionError)
    work({"http": _Calls(Tesseract.from_url(url)).functions}, inputs, {"tesseract-core": version("tesseract-core")})


if __name__ == "__main__":
    main(*sys.argv[1:])
