"""Weights of the CNN of `benchmarks.model` in a file, for other frameworks than torch; reading needs numpy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.model import Array, cnn, inputs

ROWS = 32
"""Rows of the inputs; the file has their outputs too."""

_NAMES = {"conv1": 0, "conv2": 3, "hidden": 7, "logits": 9}
_LAST_MAPS = (32, 4, 4)
"""Shape that is flattened before the first linear layer, channels first."""


def save(path: Path) -> None:
    """Writes the weights, and torch's outputs for the inputs of `ROWS` rows."""
    import torch

    module = cnn().eval()
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    arrays: dict[str, Array] = {}
    for name, i in _NAMES.items():
        arrays |= {f"{name}.weight": state[f"{i}.weight"], f"{name}.bias": state[f"{i}.bias"]}
    with torch.inference_mode():
        arrays["outputs"] = module(torch.from_numpy(inputs(ROWS).x)).numpy()
    np.savez(path, **arrays)


def outputs(path: Path) -> Array:
    """Reads the outputs for the inputs of `ROWS` rows, ``(ROWS, 10)``."""
    return channels_first(path)["outputs"]


def channels_first(path: str | Path) -> dict[str, Array]:
    """Reads the weights with channels first.

    Returns:
        ``conv1``, ``conv2``, ``hidden`` and ``logits`` with ``.weight``, (out, in, height, width) or (out, in), and ``.bias``.
    """
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def channels_last(path: str | Path) -> dict[str, Array]:
    """Reads the weights with channels last.

    Returns:
        The same as `channels_first`, with ``.weight`` (height, width, in, out) or (in, out).
    """
    arrays = channels_first(path)
    hidden = arrays["hidden.weight"]
    arrays["hidden.weight"] = hidden.reshape(len(hidden), *_LAST_MAPS).transpose(0, 2, 3, 1).reshape(hidden.shape)
    for name in _NAMES:
        weight = arrays[f"{name}.weight"]
        arrays[f"{name}.weight"] = np.ascontiguousarray(weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T)
    return arrays
