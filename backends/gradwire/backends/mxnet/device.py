"""Devices of MXNet models, and MXNet itself, with the settings that its gradients need.

Invariant: the files of this backend import MXNet from here alone. Its gradients are right only if oneDNN is off.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any

# oneDNN's pooling keeps the data for its backward in training alone: in evaluation the gradient is of other elements.
# Read by MXNet when its first operator runs. MXNET_ONEDNN_ENABLED has no effect in 1.9.1.
os.environ["MXNET_MKLDNN_ENABLED"] = "0"
# Recurrent layers in float32 would ask for oneDNN's outputs all the same, and fail.
os.environ["MXNET_USE_MKLDNN_RNN"] = "0"
# Otherwise every operator warns that oneDNN does not run it.
os.environ.setdefault("MXNET_STORAGE_FALLBACK_LOG_VERBOSE", "0")

import mxnet as mx

from gradwire.backends.errors import ModelConfigError, ModelFailed, OutOfMemory

__all__ = ["FrameworkErrors", "find_device", "mx", "settle"]

_NO_ROOM = ("llocate", "out of memory", "bad_alloc", "larger than 2^31")


def settle() -> None:
    """Waits for all running operators and drops their errors, which would fail the next call too."""
    with suppress(mx.base.MXNetError):
        mx.nd.waitall()


def find_device(name: str) -> Any:
    """Finds the device of a name, ``cpu``, ``gpu`` or ``gpu:N``. Raises ModelConfigError."""
    kind, _, index = name.partition(":")
    if kind == "gpu" and int(index or 0) >= mx.context.num_gpus():
        raise ModelConfigError("device", f"{name} is not available; MXNet sees {mx.context.num_gpus()} GPU(s), and cpu")
    return mx.Context(kind, int(index or 0))


class FrameworkErrors(AbstractContextManager[None]):
    """Translates MXNet's errors. The block must read its results, because MXNet raises when they are read."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            return
        settle()
        if not isinstance(error, mx.base.MXNetError):
            return
        text = str(error)
        if any(sign in text for sign in _NO_ROOM):
            raise OutOfMemory(
                "MXNet has no room for so many rows; send fewer, or set a smaller max_batch_rows. A tensor of it has fewer "
                "than 2^31 elements"
            ) from error
        raise ModelFailed(f"MXNet raised {type(error).__name__}: {text.rpartition('MXNetError: ')[2].strip()[:500]}") from error
