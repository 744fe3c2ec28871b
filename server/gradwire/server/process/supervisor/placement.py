"""Placement of a configuration's models on the one device of a process."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gradwire.backends.errors import ModelConfigError
from gradwire.backends.registry import backend
from gradwire.server.config.device_names import CPU


def place_models(content: Any, device: str) -> Any:
    """Copies a configuration with its models on the process's device.

    A model with ``device: cpu`` stays there, and so does one whose backend has no GPUs. All others are placed on the process's
    device: those without the key, and those that name any GPU.

    Args:
        content: The configuration from YAML; errors in it are found later.
        device: As `device_names` returns it; a process of a GPU sees only that one.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("models"), list):
        return content
    return {**content, "models": [_place(model, device) for model in content["models"]]}


def _place(model: Any, device: str) -> Any:
    if not isinstance(model, Mapping) or "backend" not in model or model.get("device") == CPU:
        return model
    gpu = ""
    with suppress(ModelConfigError):
        gpu = backend(str(model["backend"])).Config.gpu
    if not gpu:
        return model
    return {**model, "device": CPU if device == CPU else gpu}
