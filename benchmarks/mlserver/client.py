"""A client process of MLServer: ``python -m benchmarks.mlserver.client PORT``; see `benchmarks.contenders.worker`."""

from __future__ import annotations

import queue
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import grpc
import numpy as np
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

from benchmarks.contenders.contender import Function
from benchmarks.contenders.worker import work
from benchmarks.model import INPUT_SHAPE, NB_CLASSES, Array, Inputs, inputs

_READY_S = 60


class Calls:
    """The operations, by a way to get a response for a request."""

    def __init__(self, infer: Callable[[Any], Any]) -> None:
        self._infer = infer
        self.functions: dict[str, Function] = {"predict": self.predict, "loss_gradient": self.loss_gradient}

    def predict(self, inputs: Inputs) -> Array:
        return self._call({"x": inputs.x}).reshape(-1, NB_CLASSES)

    def loss_gradient(self, inputs: Inputs) -> Array:
        return self._call({"x": inputs.x, "y": inputs.y}).reshape(-1, *INPUT_SHAPE)

    def _call(self, arrays: dict[str, Array]) -> Array:
        tensors = [pb.ModelInferRequest.InferInputTensor(name=name, datatype="BYTES", shape=[1]) for name in arrays]
        contents = [struct.pack("<I", array.nbytes) + array.tobytes() for array in arrays.values()]
        response = self._infer(pb.ModelInferRequest(model_name="cnn", inputs=tensors, raw_input_contents=contents))
        return np.frombuffer(response.raw_output_contents[0], np.float32, offset=4)


class OpenStream:
    """Requests and responses, one after the other, on a stream that stays open."""

    def __init__(self, stub: Any) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._responses = stub.ModelStreamInfer(iter(self._requests.get, None))

    def __call__(self, request: Any) -> Any:
        self._requests.put(request)
        return next(self._responses)


def main(port: int) -> None:
    """Connects to the server and does what it is told until stdin ends."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    stub = GRPCInferenceServiceStub(grpc.insecure_channel(f"127.0.0.1:{port}", unlimited))
    _wait(stub)
    ways = {"unary": Calls(stub.ModelInfer).functions, "stream": Calls(OpenStream(stub)).functions}
    work(ways, inputs, {name: version(name) for name in ("mlserver", "grpcio", "protobuf", "torch")})


def _wait(stub: Any) -> None:
    ready = partial(stub.ModelReady, pb.ModelReadyRequest(name="cnn"), timeout=1)
    until_s = time.monotonic() + _READY_S
    while True:
        try:
            if ready().ready:
                return
        except grpc.RpcError:
            if time.monotonic() > until_s:
                raise
        time.sleep(0.2)


if __name__ == "__main__":
    main(int(sys.argv[1]))
