"""Torch module of a remote model, for code that differentiates with autograd: Foolbox, torchattacks, plain loops.

Forward is Predict and backward is VectorJacobianProduct: a step with a gradient makes two calls, a step without makes one.
Forward includes postprocessing; backward differentiates the outputs before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from gradwire.client.ensemble import RemoteEnsemble
from gradwire.client.estimator import RemoteEstimator
from gradwire.wire.tensors import Array


def remote_module(remote: RemoteEstimator | RemoteEnsemble) -> nn.Module:
    """Makes a module whose forward and backward pass the server computes.

    It maps tensors ``(n, *input_shape)`` to ``(n, *output_shape)``, on the device of its inputs and in their dtype if that is
    floating. It starts in evaluation mode; after ``train()`` calls use the layers' training mode. It can be pickled and
    copied. Gradients of gradients, and the transforms of ``torch.func``, raise RuntimeError.

    Raises:
        GradwireError: In forward or backward, as `RemoteEstimator.predict` and `RemoteEstimator.vjp`.
    """
    return RemoteModule(remote).eval()


class RemoteModule(nn.Module):
    """Torch module of a remote model. Made by `remote_module`.

    Args:
        remote: The model.
    """

    def __init__(self, remote: RemoteEstimator | RemoteEnsemble) -> None:
        super().__init__()
        self.remote = remote
        dtype = remote.card.input_dtype if remote.card.input_dtype.kind == "f" else np.float32
        # Not trained, but callers read device and dtype from next(parameters()).
        self.anchor = nn.Parameter(torch.from_numpy(np.empty(0, dtype)), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the server's outputs for ``x``."""
        outputs: torch.Tensor = _Remote.apply(x, self.remote, self.training)  # type: ignore[no-untyped-call]
        return outputs

    def extra_repr(self) -> str:
        """Describes the remote model in the module's repr."""
        return repr(self.remote)


class _Remote(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, remote: RemoteEstimator | RemoteEnsemble, training_mode: bool) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.remote, ctx.training_mode = remote, training_mode
        return _tensor(remote.predict(_array(x), training_mode=training_mode), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (x,) = ctx.saved_tensors
        gradient = ctx.remote.vjp(_array(x), _array(cotangent), training_mode=ctx.training_mode)
        return _tensor(gradient, x), None, None


def _array(tensor: torch.Tensor) -> Array:
    # numpy has no bfloat16.
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy(force=True)
    return array


def _tensor(array: Array, like: torch.Tensor) -> torch.Tensor:
    # A small answer is a read-only view of its message.
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.to(like.device, like.dtype if like.is_floating_point() else tensor.dtype)
