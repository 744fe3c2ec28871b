"""MXNet, with the settings without which its gradients are wrong.

What holds: the files of this backend take MXNet and its autograd from here alone. Gradients are right only if oneDNN is
off, and if forward and backward are told the same mode: `recording` and `gradient` are the only places that tell it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any

# oneDNN's pooling keeps what its backward needs in training alone: in evaluation the gradient is of other elements.
# Read by MXNet when its first operator runs. MXNET_ONEDNN_ENABLED has no effect in 1.9.1.
os.environ["MXNET_MKLDNN_ENABLED"] = "0"
# Recurrent layers in float32 would ask for oneDNN's outputs all the same, and fail.
os.environ["MXNET_USE_MKLDNN_RNN"] = "0"
# Else every operator warns that oneDNN does not run it.
os.environ.setdefault("MXNET_STORAGE_FALLBACK_LOG_VERBOSE", "0")

import mxnet as mx
import numpy as np

from gradwire.backends.errors import ModelConfigError, ModelFailed, OutOfMemory, Unsupported

__all__ = ["Errors", "autograd", "check", "gradient", "mx", "no_way_back", "recording", "running", "settle"]

autograd = mx.autograd
_NO_ROOM = ("llocate", "out of memory", "bad_alloc", "larger than 2^31")


def check() -> None:
    """Raises ModelConfigError if MXNet ran in this process before it could be set up, so that its gradients are wrong."""
    settle()
    x = mx.nd.array(np.arange(16.0).reshape(1, 1, 4, 4))
    x.attach_grad()
    with recording(False):
        pooled = mx.nd.Pooling(mx.nd.Activation(x, act_type="relu"), kernel=(2, 2), stride=(2, 2), pool_type="max")
    found = gradient(pooled, x, mx.nd.ones(pooled.shape), training_mode=False)
    expected = np.zeros((4, 4))
    expected[1::2, 1::2] = 1
    if not np.array_equal(found.asnumpy()[0, 0], expected):
        raise ModelConfigError(
            "backend",
            "MXNet was used in this process with oneDNN, whose gradients are wrong outside training; "
            "set MXNET_MKLDNN_ENABLED=0 in the environment before the process starts",
        )
    if mx.util.is_np_array():
        raise ModelConfigError(
            "backend", "mxnet.npx.set_np was called, which changes what every block of the process does; leave it out"
        )


def settle() -> None:
    """Waits for all that is under way and drops what fails: operators run in bunches, and it would fail the next call too."""
    with suppress(mx.base.MXNetError):
        mx.nd.waitall()


def recording(training_mode: bool) -> AbstractContextManager[Any]:
    """What a forward runs in that a gradient is to be taken of."""
    scope: AbstractContextManager[Any] = autograd.record(train_mode=training_mode)
    return scope


def running(training_mode: bool) -> AbstractContextManager[Any]:
    """What a forward runs in that no gradient is taken of."""
    scope: AbstractContextManager[Any] = autograd.pause(train_mode=training_mode)
    return scope


def gradient(of: Any, leaf: Any, cotangent: Any, *, training_mode: bool, all_weights: bool = False, keep: bool = False) -> Any:
    """The gradient of ``of`` times ``cotangent`` with respect to ``leaf``, recorded in the same mode.

    Args:
        of: What was recorded, ``(n, ...)``.
        leaf: The inputs, with ``attach_grad``.
        cotangent: In the shape of ``of``.
        training_mode: As in `recording`.
        all_weights: Lets gradients of the weights be computed too. The fused GRU and RNN layers give the inputs a wrong
            gradient otherwise.
        keep: Whether another gradient of the same recording follows.

    Raises:
        Unsupported: There is no way back to the inputs.
    """
    try:
        if not all_weights:
            found = autograd.grad([of], [leaf], [cotangent], retain_graph=keep, train_mode=training_mode)
            return found[0]
        leaf._fresh_grad = False
        autograd.backward([of], [cotangent], retain_graph=keep, train_mode=training_mode)
    except mx.base.MXNetError as e:
        if "unreachable" not in str(e) and "set is_recording to true" not in str(e):
            raise
        raise no_way_back() from e
    if not leaf._fresh_grad:
        raise no_way_back()
    return leaf.grad


def no_way_back() -> Unsupported:
    """Zeros would pass for a robust model."""
    return Unsupported("there is no way from there to the inputs: something in between is blocked, or not differentiable")


class Errors(AbstractContextManager[None]):
    """Turns MXNet's errors into ours. What leaves the block must have been waited for: MXNet raises when it is read."""

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
