"""MLServer with a runtime of our own, in an environment of its own: contender, runtime and client process.

Measured are its ordinary unary call, and its stream, which is meant for generated tokens but saves the opening of a call as
gradwire's streams do. Worker processes, metrics and access log are off, because they would slow it down.

MLServer loads `Runtime` from here, in its own environment. ``python -m benchmarks.contenders.mlserver PORT`` is a client process;
see `benchmarks.contenders.worker`.
"""

from __future__ import annotations

import json
import queue
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.contender import PEER_OPERATIONS, Contender, Function
from benchmarks.contenders.remote import ROOT, Remote, client, environment, free_ports, process
from benchmarks.contenders.worker import wait_for, work
from benchmarks.model import INPUT_SHAPE, NB_CLASSES, Array, Inputs, cnn, inputs

NAMES = {"MLServer": "unary", "MLServer stream": "stream"}


@contextmanager
def mlserver() -> Iterator[list[Contender]]:
    """Runs MLServer and yields two contenders: unary calls, and an open stream. Makes its environment if there is none."""
    with served() as (command, log), client(command, log, "MLServer") as pipe:
        pipe.ready()
        yield [Remote(name, way, pipe, PEER_OPERATIONS) for name, way in NAMES.items()]


@contextmanager
def served() -> Iterator[tuple[Sequence[str], Path]]:
    """Runs the server during the context; yields the command of a client process, and the path of their log."""
    python = environment(ROOT / ".venv-mlserver", ["mlserver==1.7.1", "numpy"])
    with tempfile.TemporaryDirectory(prefix="gradwire-bench-") as name:
        settings = Path(name)
        port = _configure(settings)
        log = settings / "log"
        with process([str(python.with_name("mlserver")), "start", str(settings)], log):
            yield (str(python), "-m", "benchmarks.contenders.mlserver", str(port)), log


def _configure(folder: Path) -> int:
    """Writes MLServer's settings; returns the gRPC port."""
    http_port, grpc_port = free_ports(2)
    settings = {
        "host": "127.0.0.1",
        "http_port": http_port,
        "grpc_port": grpc_port,
        "grpc_max_message_length": 64 << 20,
        "debug": False,
        "metrics_endpoint": None,
        "parallel_workers": 0,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "cnn", "implementation": "benchmarks.contenders.mlserver.Runtime"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    return grpc_port


# The server, in MLServer's environment.


def __getattr__(name: str) -> Any:
    """Makes the class `Runtime` when MLServer loads it: only MLServer's environment has its base class."""
    if name != "Runtime":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _runtime()


def _runtime() -> type:
    """Makes the model as an MLServer runtime, written to be fast.

    Tensors travel as raw contents of datatype BYTES, which MLServer hands on as they are. With FP32 it makes a Python list of
    every tensor, which costs 10 to 20 ms for 128 rows.
    """
    import torch
    from mlserver import MLModel
    from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
    from torch import nn

    class Runtime(MLModel):  # type: ignore[misc]  # MLServer is not in this environment
        """Outputs for the input ``x``; with the input ``y`` too, the gradient of the loss."""

        async def load(self) -> bool:
            self._module = cnn().eval().requires_grad_(False)
            self._loss = nn.CrossEntropyLoss()
            return True

        async def predict(self, payload: InferenceRequest) -> InferenceResponse:
            return self._response(payload)

        async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
            async for payload in payloads:
                yield self._response(payload)

        def _response(self, payload: InferenceRequest) -> InferenceResponse:
            data = {tensor.name: bytearray(tensor.data[0]) for tensor in payload.inputs}
            x = torch.from_numpy(np.frombuffer(data["x"], np.float32).reshape(-1, *INPUT_SHAPE))
            y = torch.from_numpy(np.frombuffer(data["y"], np.int64)) if "y" in data else None
            result = self._outputs(x) if y is None else self._gradient(x, y)
            # Without pydantic's checks, as MLServer makes its requests.
            output = ResponseOutput.construct(name="result", shape=[1], datatype="BYTES", parameters=None, data=[result.tobytes()])
            return InferenceResponse.construct(
                model_name=self.name, model_version=None, id=payload.id, parameters=None, outputs=[output]
            )

        def _outputs(self, x: torch.Tensor) -> Array:
            with torch.inference_mode():
                outputs: Array = self._module(x).numpy()
            return outputs

        def _gradient(self, x: torch.Tensor, y: torch.Tensor) -> Array:
            leaf = x.requires_grad_()
            gradient: Array = torch.autograd.grad(self._loss(self._module(leaf), y), leaf)[0].numpy()
            return gradient

    return Runtime


# A client process, in MLServer's environment.


class _Calls:
    """The operations, made with a function that gets the response to a request."""

    def __init__(self, infer: Callable[[Any], Any]) -> None:
        from mlserver.grpc import dataplane_pb2

        self._pb = dataplane_pb2
        self._infer = infer
        self.functions: dict[str, Function] = {"predict": self.predict, "loss_gradient": self.loss_gradient}

    def predict(self, inputs: Inputs) -> Array:
        return self._call({"x": inputs.x}).reshape(-1, NB_CLASSES)

    def loss_gradient(self, inputs: Inputs) -> Array:
        return self._call({"x": inputs.x, "y": inputs.y}).reshape(-1, *INPUT_SHAPE)

    def _call(self, arrays: dict[str, Array]) -> Array:
        request = self._pb.ModelInferRequest
        tensors = [request.InferInputTensor(name=name, datatype="BYTES", shape=[1]) for name in arrays]
        contents = [struct.pack("<I", array.nbytes) + array.tobytes() for array in arrays.values()]
        response = self._infer(request(model_name="cnn", inputs=tensors, raw_input_contents=contents))
        return np.frombuffer(response.raw_output_contents[0], np.float32, offset=4)


class _OpenStream:
    """A stream that stays open, with one request and one response at a time."""

    def __init__(self, stub: Any) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._responses = stub.ModelStreamInfer(iter(self._requests.get, None))

    def __call__(self, request: Any) -> Any:
        self._requests.put(request)
        return next(self._responses)


def main(port: str) -> None:
    """Connects to the server and makes the calls it is asked for until stdin ends."""
    import grpc
    from mlserver.grpc import dataplane_pb2 as pb
    from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    stub = GRPCInferenceServiceStub(grpc.insecure_channel(f"127.0.0.1:{port}", unlimited))
    wait_for(lambda: stub.ModelReady(pb.ModelReadyRequest(name="cnn"), timeout=1).ready, grpc.RpcError)
    ways = {"unary": _Calls(stub.ModelInfer).functions, "stream": _Calls(_OpenStream(stub)).functions}
    work(ways, inputs, {name: version(name) for name in ("mlserver", "grpcio", "protobuf", "torch")})


if __name__ == "__main__":
    main(*sys.argv[1:])
