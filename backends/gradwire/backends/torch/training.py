"""The optimizer of a torch model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gradwire.backends.config import Object
from gradwire.backends.errors import ModelConfigError


def build(spec: Object, parameters: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Makes the optimizer that a configuration names. Raises ModelConfigError."""
    optimizer = spec.build("optimizer", list(parameters))
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ModelConfigError("optimizer", f"{spec.path!r} returned {type(optimizer).__name__}; expected a torch.optim.Optimizer")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ModelConfigError(
            "optimizer", f"{spec.path!r} evaluates a batch several times a step; expected one that evaluates it once"
        )
    return optimizer
