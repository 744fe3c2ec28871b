"""The models of a configuration, put on the one device that a process has."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from gradwire.backends.errors import ModelConfigError
from gradwire.backends.registry import backend
from gradwire.server.config.device_names import CPU


def placed(content: Any, device: str) -> Any:
    """A configuration whose models are on the process's device.

    A model that says ``device: cpu`` stays there, and so does one whose backend knows no GPUs. All others go where the process is:
    those that say nothing, and those that name a GPU, which means a GPU and no longer which.

    Args:
        content: As YAML gives it; what is wrong in it is left to whoever checks it.
        device: As `device_names` returns it; of a GPU the process sees that one alone.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("models"), list):
        return content
    return {**content, "models": [_placed(model, device) for model in content["models"]]}


def _placed(model: Any, device: str) -> Any:
    if not isinstance(model, Mapping) or "backend" not in model or model.get("device") == CPU:
        return model
    gpu = ""
    with suppress(ModelConfigError):
        gpu = backend(str(model["backend"])).Config.gpu
    if not gpu:
        return model
    return {**model, "device": CPU if device == CPU else gpu}
