"""numpy arrays to torch tensors and back.

Nothing is done that changes nothing: a no-op ``to`` or ``cpu`` costs a call of one row more than it looks.
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
"""What `array` can be asked for."""

_CPU = torch.device("cpu")


def tensor(x: Array, dtype: np.dtype[Any], device: torch.device) -> torch.Tensor:
    """A copy of the array on the device, as ``dtype``."""
    copied = torch.from_numpy(np.array(x, dtype=dtype, order="C", copy=True))
    return copied if device == _CPU else copied.to(device)


def view(x: Array, dtype: np.dtype[Any], device: torch.device) -> torch.Tensor:
    """As `tensor`, but in the array's own memory where that can be. Only for what nobody writes to."""
    if x.dtype != dtype or not x.flags.carray:  # torch warns of arrays that are read-only
        return tensor(x, dtype, device)
    shared = torch.from_numpy(x)
    return shared if device == _CPU else shared.to(device)


def array(t: torch.Tensor, dtype: np.dtype[Any], staging: Staging | None = None) -> Array:
    """The tensor in host memory: floating ones as ``dtype`` (numpy has no bfloat16), others as they are.

    Always contiguous: a gradient may be an expanded view, which in-place arithmetic in numpy would garble. The memory is
    the tensor's own where it can be; pass a clone of what belongs to the model.
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
