"""Conversion of numpy arrays to torch tensors and back.

No-op conversions are left out: a ``to`` or ``cpu`` without effect takes noticeable time in a call of one row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gradwire.backends.backend import Array
from gradwire.backends.torch.transfers import Staging

TORCH_DTYPES: dict[np.dtype[Any], torch.dtype] = {
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}
"""The dtypes that `array` converts to."""

_CPU = torch.device("cpu")


def tensor(x: Array, dtype: np.dtype[Any], device: torch.device) -> torch.Tensor:
    """Copies an array to the device, as ``dtype``."""
    copied = torch.from_numpy(np.array(x, dtype=dtype, order="C", copy=True))
    return copied if device == _CPU else copied.to(device)


def view(x: Array, dtype: np.dtype[Any], device: torch.device) -> torch.Tensor:
    """Converts like `tensor`, but in the array's own memory if possible. Only for tensors that are not written to."""
    if x.dtype != dtype or not x.flags.carray:  # torch warns of arrays that are read-only
        return tensor(x, dtype, device)
    shared = torch.from_numpy(x)
    return shared if device == _CPU else shared.to(device)


def array(t: torch.Tensor, dtype: np.dtype[Any], staging: Staging | None = None) -> Array:
    """Converts a tensor to an array: floating ones as ``dtype`` (numpy has no bfloat16), others as they are.

    Always contiguous: a gradient may be an expanded view, which in-place arithmetic in numpy would garble. The memory is
    the tensor's own if possible; pass a clone of a tensor that belongs to the model.
    """
    if t.requires_grad:
        t = t.detach()
    if t.is_floating_point() and t.dtype is not TORCH_DTYPES[dtype]:
        t = t.to(TORCH_DTYPES[dtype])
    if t.device != _CPU:
        if staging is not None:
            return staging.take(t)
        t = t.cpu()
    result: Array = t.contiguous().numpy()
    return result
