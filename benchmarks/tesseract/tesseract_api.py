"""The model as a Tesseract: ``apply`` answers outputs, ``vector_jacobian_product`` the gradient of the loss."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel
from tesseract_core.runtime import Array, Differentiable, Float32, Int64
from torch import nn

from benchmarks.model import cnn

_module = cnn().eval().requires_grad_(False)
_loss = nn.CrossEntropyLoss()


class InputSchema(BaseModel):
    """Rows and labels."""

    x: Differentiable[Array[(None, 1, 28, 28), Float32]]
    y: Array[(None,), Int64]


class OutputSchema(BaseModel):
    """Outputs, and the mean loss."""

    outputs: Array[(None, 10), Float32]
    loss: Differentiable[Float32]


def apply(inputs: InputSchema) -> OutputSchema:
    """Outputs, and the loss of them."""
    with torch.inference_mode():
        outputs = _module(torch.from_numpy(inputs.x.copy()))
        return OutputSchema(outputs=outputs.numpy(), loss=_loss(outputs, torch.from_numpy(inputs.y.copy())).item())


def vector_jacobian_product(
    inputs: InputSchema, vjp_inputs: set[str], vjp_outputs: set[str], cotangent_vector: dict[str, Any]
) -> dict[str, Any]:
    """The gradient of the loss."""
    leaf = torch.from_numpy(inputs.x.copy()).requires_grad_()
    loss = _loss(_module(leaf), torch.from_numpy(inputs.y.copy()))
    gradient = torch.autograd.grad(loss, leaf, torch.as_tensor(float(cotangent_vector["loss"])))[0]
    return {"x": gradient.numpy()}
