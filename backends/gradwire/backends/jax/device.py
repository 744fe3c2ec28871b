"""Devices of JAX models."""

from __future__ import annotations

import os
from typing import Any

# Before JAX sees a GPU, of which it would take three quarters for itself: other models may want some.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from gradwire.backends.errors import ModelConfigError


def find_device(name: str) -> Any:
    """Finds the device of a name, ``cpu``, ``gpu`` or ``cuda``, with ``:N`` or without. Raises ModelConfigError."""
    kind, _, index = name.partition(":")
    try:
        found = jax.local_devices(backend="cpu" if kind == "cpu" else "gpu")
    except RuntimeError:
        found = []
    if int(index or 0) >= len(found):
        raise ModelConfigError("device", f"{name} is not available; JAX sees {', '.join(map(str, jax.devices()))}")
    return found[int(index or 0)]
