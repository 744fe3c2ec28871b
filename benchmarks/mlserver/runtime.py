"""The model as an MLServer runtime, written to be fast.

Tensors travel as raw contents of datatype BYTES, which MLServer hands on as they are. With FP32 it makes a Python list of
every tensor, which costs 10 to 20 ms for 128 rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import torch
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from torch import nn

from benchmarks.model import INPUT_SHAPE, Array, cnn


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
