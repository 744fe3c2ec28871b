"""Two nets as numbers: what every framework builds its own model of, and a forward pass in numpy to hold them against.

``CONV``: rows 2x8x8 (channels first); convolution 3x3 without padding to 4 channels, tanh, average pooling 2x2, flattened
channels first (36), dense to 16, tanh, dense to 5 logits. ``DENSE``: 6 inputs, dense to 8, tanh, dense to 4 logits. All
float32. Dense kernels are ``(inputs, outputs)``; the convolution's is ``(out, in, height, width)``. A framework with
channels last takes rows 8x8x2 and must put the channels first again before it flattens. Every framework's ``CONV`` has the
layout that is its habit; its factory takes ``channels_first`` and ``dtype`` for nets of the other one, and of other precisions.

numpy only: servers of other environments import this too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CONV_INPUT_SHAPE = (2, 8, 8)
CONV_CLASSES = 5
DENSE_INPUT_SHAPE = (6,)
DENSE_CLASSES = 4


def _weights(seed: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, 0.4 if len(shape) == 4 else 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


CONV = _weights(
    1,
    {
        "conv.kernel": (4, 2, 3, 3),
        "conv.bias": (4,),
        "hidden.kernel": (36, 16),
        "hidden.bias": (16,),
        "logits.kernel": (16, 5),
        "logits.bias": (5,),
    },
)
DENSE = _weights(2, {"hidden.kernel": (6, 8), "hidden.bias": (8,), "logits.kernel": (8, 4), "logits.bias": (4,)})


def conv_in(dtype: str) -> dict[str, Any]:
    """``CONV`` in another precision."""
    return {name: array.astype(dtype) for name, array in CONV.items()}


def conv_forward(x: Any) -> dict[str, Any]:
    """Outputs of the layers ``conv``, ``hidden`` (both before tanh) and ``logits``, in float64, for ``x (n, 2, 8, 8)``."""
    w = {name: array.astype(np.float64) for name, array in CONV.items()}
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), (3, 3), axis=(2, 3))
    conv = np.einsum("ncijhw,ochw->noij", windows, w["conv.kernel"]) + w["conv.bias"][:, None, None]
    pooled = np.tanh(conv).reshape(len(x), 4, 3, 2, 3, 2).mean(axis=(3, 5))
    hidden = pooled.reshape(len(x), -1) @ w["hidden.kernel"] + w["hidden.bias"]
    return {"conv": conv, "hidden": hidden, "logits": np.tanh(hidden) @ w["logits.kernel"] + w["logits.bias"]}


def dense_forward(x: Any) -> dict[str, Any]:
    """Outputs of the layers ``hidden`` (before tanh) and ``logits``, in float64, for ``x (n, 6)``."""
    w = {name: array.astype(np.float64) for name, array in DENSE.items()}
    hidden = x.astype(np.float64) @ w["hidden.kernel"] + w["hidden.bias"]
    return {"hidden": hidden, "logits": np.tanh(hidden) @ w["logits.kernel"] + w["logits.bias"]}
