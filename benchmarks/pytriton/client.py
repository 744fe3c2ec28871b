"""A client process of PyTriton: ``python -m benchmarks.pytriton.client GRPC_PORT``; see `benchmarks.contenders.worker`.

Triton's own client, because PyTriton's makes a copy and a lookup more, and knows no shared memory. By two ways: arrays travel in
the messages, or lie in memory that is shared with the server.
"""

from __future__ import annotations

import os
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, shared_memory

from benchmarks.contenders.contender import Function
from benchmarks.contenders.worker import work
from benchmarks.model import INPUT_SHAPE, NB_CLASSES, Array, Inputs, inputs

TOKEN_HEADER = {"triton-grpc-protocol-triton-access-token": "benchmark"}
"""What the server wants to hear before memory is shared."""

_READY_S = 60
_MEMORY_NBYTES = 1 << 20
"""For each tensor: 128 rows have 0.4 MB."""


class InMessages:
    """Calls whose arrays travel with them."""

    def __init__(self, client: Any) -> None:
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
        tensor = _tensor(name, array)
        tensor.set_data_from_numpy(array)
        return tensor

    def _wanted(self, shape: tuple[int, ...]) -> Any:
        return triton.InferRequestedOutput("result")

    def _result(self, answer: Any, shape: tuple[int, ...]) -> Array:
        result: Array = answer.as_numpy("result")
        return result


class InSharedMemory(InMessages):
    """Calls whose arrays lie in memory that the server maps too."""

    def __init__(self, client: Any) -> None:
        super().__init__(client)
        self._regions: dict[str, Any] = {}
        for name in ("x", "y", "result"):
            region = f"gradwire-bench-{os.getpid()}-{name}"
            self._regions[name] = shared_memory.create_shared_memory_region(region, f"/{region}", _MEMORY_NBYTES)
            client.register_system_shared_memory(region, f"/{region}", _MEMORY_NBYTES, headers=TOKEN_HEADER)

    def close(self) -> None:
        """Gives the memory back."""
        self._client.unregister_system_shared_memory(headers=TOKEN_HEADER)
        for region in self._regions.values():
            shared_memory.destroy_shared_memory_region(region)

    def _given(self, name: str, array: Array) -> Any:
        shared_memory.set_shared_memory_region(self._regions[name], [array])
        tensor = _tensor(name, array)
        tensor.set_shared_memory(f"gradwire-bench-{os.getpid()}-{name}", array.nbytes)
        return tensor

    def _wanted(self, shape: tuple[int, ...]) -> Any:
        output = super()._wanted(shape)
        output.set_shared_memory(f"gradwire-bench-{os.getpid()}-result", 4 * int(np.prod(shape)))
        return output

    def _result(self, answer: Any, shape: tuple[int, ...]) -> Array:
        # A copy: the next call writes there.
        result: Array = shared_memory.get_contents_as_numpy(self._regions["result"], np.float32, shape).copy()
        return result


def main(port: int) -> None:
    """Connects, and does what it is told until stdin ends."""
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    _wait(client)
    shared = InSharedMemory(client)
    try:
        ways = {"messages": InMessages(client).functions, "shared": shared.functions}
        work(ways, inputs, {name: version(name) for name in ("nvidia-pytriton", "tritonclient")})
    finally:
        shared.close()


def _tensor(name: str, array: Array) -> Any:
    return triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))


def _wait(client: Any) -> None:
    until_s = time.monotonic() + _READY_S
    while True:
        try:
            if all(client.is_model_ready(model) for model in ("predict", "loss_gradient")):
                return
        except InferenceServerException:
            if time.monotonic() > until_s:
                raise
        time.sleep(0.2)


if __name__ == "__main__":
    main(int(sys.argv[1]))
