"""numpy arrays to torch tensors and back; neither side ever shares memory with the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gradwire.backends.backend import Array


def tensor(x: Array, dtype: np.dtype[Any], device: torch.device) -> torch.Tensor:
    """The array on the device, as ``dtype``.

    Always a copy: arrays from the wire are read-only views, and a model whose first step works in place would write into
    its caller's rows. Beside any forward pass the copy is nothing.
    """
    return torch.from_numpy(np.array(x, dtype=dtype, order="C", copy=True)).to(device)


def array(t: torch.Tensor, dtype: np.dtype[Any]) -> Array:
    """The tensor in host memory: floating ones as ``dtype`` (numpy has no bfloat16), others as they are.

    Always contiguous: a gradient may be an expanded view, which in-place arithmetic in numpy would garble. The memory is
    the tensor's own where it can be; pass a clone of what belongs to the model.
    """
    t = t.detach()
    if t.is_floating_point():
        t = t.to("cpu", getattr(torch, dtype.name))
    result: Array = t.cpu().contiguous().numpy()
    return result
