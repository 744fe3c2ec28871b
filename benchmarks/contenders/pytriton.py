"""PyTriton, which brings Triton, in an environment of its own: contender, server and client process.

Clients use Triton's own library, because PyTriton's makes a copy and a lookup more, and has no shared memory. They call in two
ways: arrays travel in the messages, or lie in memory that is shared with the server.

In PyTriton's environment, ``python -m benchmarks.contenders.pytriton serve HTTP_PORT GRPC_PORT WORKSPACE`` is the server, and
``... client GRPC_PORT`` a client process; see `benchmarks.contenders.worker`.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.contender import PEER_OPERATIONS, Contender, Function
from benchmarks.contenders.remote import ROOT, Remote, client, environment, free_ports, process
from benchmarks.contenders.worker import wait_for, work
from benchmarks.model import INPUT_SHAPE, NB_CLASSES, Array, Inputs, cnn, inputs

NAMES = {"PyTriton": "messages", "PyTriton shared memory": "shared"}

_MOST_ROWS = 128
_MEMORY_NBYTES = 1 << 20
"""For each tensor: 128 rows have 0.4 MB."""
_TOKEN = "benchmark"
"""The server requires it before it shares memory."""


@contextmanager
def pytriton() -> Iterator[list[Contender]]:
    """Runs PyTriton and yields two contenders. Makes its environment, 1.3 GB, if there is none."""
    # Not constrained: it wants an older numpy than the others.
    python = environment(ROOT / ".venv-pytriton", ["nvidia-pytriton==0.7.0"], constrained=False)
    command = [str(python), "-m", "benchmarks.contenders.pytriton"]
    with tempfile.TemporaryDirectory(prefix="gradwire-bench-") as name:
        log = Path(name) / "log"
        http_port, grpc_port = map(str, free_ports(2))
        # Triton's processes load Python as a library: this one's, or its standard library does not fit.
        library = str(sysconfig.get_config_var("LIBDIR"))
        with (
            process([*command, "serve", http_port, grpc_port, str(Path(name) / "workspace")], log, LD_LIBRARY_PATH=library),
            client([*command, "client", grpc_port], log, "PyTriton") as pipe,
        ):
            pipe.ready()
            yield [Remote(name, way, pipe, PEER_OPERATIONS) for name, way in NAMES.items()]


# The server, in PyTriton's environment.


def serve(http_port: str, grpc_port: str, workspace: str) -> None:
    """Serves the model until the process is ended."""
    import torch
    from pytriton.decorators import batch
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig
    from torch import nn

    module = cnn().eval().requires_grad_(False)
    mean_loss = nn.CrossEntropyLoss()

    @batch  # type: ignore[untyped-decorator]  # PyTriton is not in this environment
    def predict(x: Array) -> dict[str, Array]:
        with torch.inference_mode():
            return {"result": module(torch.from_numpy(x)).numpy()}

    @batch  # type: ignore[untyped-decorator]  # PyTriton is not in this environment
    def loss_gradient(x: Array, y: Array) -> dict[str, Array]:
        leaf = torch.from_numpy(x).requires_grad_()
        loss = mean_loss(module(leaf), torch.from_numpy(y[:, 0]))
        return {"result": torch.autograd.grad(loss, leaf)[0].numpy()}

    rows = Tensor(name="x", dtype=np.float32, shape=INPUT_SHAPE)
    labels = Tensor(name="y", dtype=np.int64, shape=(1,))
    outputs = Tensor(name="result", dtype=np.float32, shape=(NB_CLASSES,))
    gradients = Tensor(name="result", dtype=np.float32, shape=INPUT_SHAPE)
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(http_port),
        grpc_address="127.0.0.1",
        grpc_port=int(grpc_port),
        allow_metrics=False,
        log_verbose=0,
    )
    settings = ModelConfig(batching=True, max_batch_size=_MOST_ROWS)
    with Triton(config=config, workspace=workspace, security_config=TritonSecurityConfig(access_token=_TOKEN)) as triton:
        triton.bind("predict", predict, inputs=[rows], outputs=[outputs], config=settings)
        triton.bind("loss_gradient", loss_gradient, inputs=[rows, labels], outputs=[gradients], config=settings)
        triton.serve()


# A client process, in PyTriton's environment.


class _InMessages:
    """Calls with arrays in their messages."""

    def __init__(self, client: Any) -> None:
        from tritonclient import grpc, utils

        self._triton, self._triton_dtype = grpc, utils.np_to_triton_dtype
        self._client = client
        self.functions: dict[str, Function] = {"predict": self.predict, "loss_gradient": self.loss_gradient}

    def predict(self, inputs: Inputs) -> Array:
        return self._call("predict", {"x": inputs.x}, (len(inputs.x), NB_CLASSES))

    def loss_gradient(self, inputs: Inputs) -> Array:
        return self._call("loss_gradient", {"x": inputs.x, "y": inputs.y[:, None]}, (len(inputs.x), *INPUT_SHAPE))

    def _call(self, model: str, arrays: dict[str, Array], shape: tuple[int, ...]) -> Array:
        given = [self._given(name, array) for name, array in arrays.items()]
        return self._result(self._client.infer(model, given, outputs=[self._wanted(shape)]), shape)

    def _given(self, name: str, array: Array) -> Any:
        tensor = self._tensor(name, array)
        tensor.set_data_from_numpy(array)
        return tensor

    def _tensor(self, name: str, array: Array) -> Any:
        return self._triton.InferInput(name, array.shape, self._triton_dtype(array.dtype))

    def _wanted(self, shape: tuple[int, ...]) -> Any:
        return self._triton.InferRequestedOutput("result")

    def _result(self, answer: Any, shape: tuple[int, ...]) -> Array:
        result: Array = answer.as_numpy("result")
        return result


class _InSharedMemory(_InMessages):
    """Calls with arrays in memory that the server maps too."""

    def __init__(self, client: Any) -> None:
        from tritonclient.utils import shared_memory

        super().__init__(client)
        self._memory = shared_memory
        self._headers = {"triton-grpc-protocol-triton-access-token": _TOKEN}
        self._regions: dict[str, Any] = {}
        for name in ("x", "y", "result"):
            region = _region(name)
            self._regions[name] = shared_memory.create_shared_memory_region(region, f"/{region}", _MEMORY_NBYTES)
            client.register_system_shared_memory(region, f"/{region}", _MEMORY_NBYTES, headers=self._headers)

    def close(self) -> None:
        """Frees the shared memory."""
        self._client.unregister_system_shared_memory(headers=self._headers)
        for region in self._regions.values():
            self._memory.destroy_shared_memory_region(region)

    def _given(self, name: str, array: Array) -> Any:
        self._memory.set_shared_memory_region(self._regions[name], [array])
        tensor = self._tensor(name, array)
        tensor.set_shared_memory(_region(name), array.nbytes)
        return tensor

    def _wanted(self, shape: tuple[int, ...]) -> Any:
        output = super()._wanted(shape)
        output.set_shared_memory(_region("result"), 4 * int(np.prod(shape)))
        return output

    def _result(self, answer: Any, shape: tuple[int, ...]) -> Array:
        # A copy: the next call writes there.
        result: Array = self._memory.get_contents_as_numpy(self._regions["result"], np.float32, shape).copy()
        return result


def _region(name: str) -> str:
    return f"gradwire-bench-{os.getpid()}-{name}"


def call(port: str) -> None:
    """Connects to the server and makes the calls it is asked for until stdin ends."""
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    connected = InferenceServerClient(f"127.0.0.1:{port}")
    wait_for(lambda: all(connected.is_model_ready(model) for model in PEER_OPERATIONS), InferenceServerException)
    shared = _InSharedMemory(connected)
    try:
        ways = {"messages": _InMessages(connected).functions, "shared": shared.functions}
        work(ways, inputs, {name: version(name) for name in ("nvidia-pytriton", "tritonclient")})
    finally:
        shared.close()


if __name__ == "__main__":
    _, role, *arguments = sys.argv
    if role == "serve":
        serve(*arguments)
    else:
        call(*arguments)
