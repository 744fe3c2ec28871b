"""Gradients with respect to the inputs, and the contexts that forwards run in.

Invariant: a missing gradient is an error, and never zeros. Forward and backward need the same mode, which only `recording` and
`gradient` set.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gradwire.backends.errors import ModelConfigError, Unsupported
from gradwire.backends.mxnet import graphs
from gradwire.backends.mxnet.device import mx, settle

autograd = mx.autograd


def check() -> None:
    """Raises ModelConfigError if MXNet was used in this process before `device` set it up, which makes its gradients wrong."""
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
        raise ModelConfigError("backend", "mxnet.npx.set_np was called, which changes every block of the process; leave it out")


def recording(training_mode: bool) -> AbstractContextManager[Any]:
    """The context of a forward that is differentiated afterwards."""
    scope: AbstractContextManager[Any] = autograd.record(train_mode=training_mode)
    return scope


def running(training_mode: bool) -> AbstractContextManager[Any]:
    """The context of a forward that is not differentiated."""
    scope: AbstractContextManager[Any] = autograd.pause(train_mode=training_mode)
    return scope


def gradient(of: Any, leaf: Any, cotangent: Any, *, training_mode: bool, all_weights: bool = False, keep: bool = False) -> Any:
    """The gradient of ``of`` times ``cotangent`` with respect to ``leaf``, recorded in the same mode.

    Args:
        of: The result of a recorded forward, ``(n, ...)``.
        leaf: The inputs, with ``attach_grad``.
        cotangent: In the shape of ``of``.
        training_mode: As in `recording`.
        all_weights: Whether to compute gradients of the weights too. Otherwise the fused GRU and RNN layers give the inputs a
            wrong gradient.
        keep: Whether another gradient of the same recording follows.

    Raises:
        Unsupported: No path leads back to the inputs.
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
        raise missing_gradient() from e
    if not leaf._fresh_grad:
        raise missing_gradient()
    return leaf.grad


def missing_gradient() -> Unsupported:
    """The error for a missing gradient; zeros would pass for a robust model."""
    return Unsupported("MXNet finds no path back to the inputs: an operation in between is blocked, or not differentiable")


def check_recorded(of: Any, leaf: Any) -> None:
    """Raises Unsupported if a recorded result, which was kept, has no path back to the inputs."""
    (name,) = autograd.get_symbol(leaf).list_inputs()
    if not graphs.differentiable(autograd.get_symbol(of), name):
        raise missing_gradient()
