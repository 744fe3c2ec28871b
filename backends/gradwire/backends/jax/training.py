"""The optimizer of a JAX model."""

from __future__ import annotations

from typing import Any

import optax

from gradwire.backends.config import Object
from gradwire.backends.errors import ModelConfigError


def build(spec: Object) -> Any:
    """Makes the optimizer that a configuration names. Raises ModelConfigError."""
    optimizer = spec.build("optimizer")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise ModelConfigError(
            "optimizer", f"{spec.path!r} returned {type(optimizer).__name__}; expected an optax.GradientTransformation"
        )
    return optax.with_extra_args_support(optimizer)
