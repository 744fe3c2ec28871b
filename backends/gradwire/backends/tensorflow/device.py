"""TensorFlow and Keras themselves: imported without their log of what the processor can do, and the devices they compute on.

What holds: TensorFlow is quiet for whoever imports it from here, and takes of a GPU only the memory that it needs.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

# Read when TensorFlow is imported, and never again: 2 leaves warnings out, but not errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

from gradwire.backends.errors import ModelConfigError, ModelFailed, OutOfMemory

__all__ = ["Device", "ErrorsNamed", "keras", "tf"]


class Device:
    """Where a model computes.

    Args:
        name: ``cpu``, ``gpu`` or ``gpu:N``.

    Raises:
        ModelConfigError: There is no such GPU.
    """

    def __init__(self, name: str) -> None:
        gpus = tf.config.list_physical_devices("GPU")
        kind, _, number = name.partition(":")
        if kind == "gpu" and int(number or 0) >= len(gpus):
            raise ModelConfigError("device", f"{name} is not here; TensorFlow sees {len(gpus)} GPU(s), and cpu")
        for gpu in gpus:
            _let_memory_grow(gpu)
        self.name = name
        # Without a GPU there is nothing to choose, and entering a device costs every call 10 microseconds.
        self._path = f"/{kind.upper()}:{number or 0}" if gpus else None

    def __call__(self) -> AbstractContextManager[Any]:
        """What is computed inside, and variables that are made there, are on the device."""
        return nullcontext() if self._path is None else tf.device(self._path)


def _let_memory_grow(gpu: Any) -> None:
    try:
        tf.config.experimental.set_memory_growth(gpu, True)
    except (RuntimeError, ValueError):
        # TensorFlow computes already; whoever began has decided.
        return


class ErrorsNamed(AbstractContextManager[None]):
    """Turns the framework's errors into ours: of a full device, and of a graph, whose text names the server's files."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, tf.errors.ResourceExhaustedError):
            raise OutOfMemory("the device has no room for so many rows; send fewer, or set a smaller max_batch_rows") from error
        if isinstance(error, tf.errors.OpError):
            raise ModelFailed(f"TensorFlow raised {type(error).__name__}: {_said(error)}") from error


_AROUND = ("Graph execution error", "Detected at node", "  File", "\t")


def _said(error: Any) -> str:
    """What an error says, without where in the code its operation was made."""
    lines = [line for line in str(error.message).splitlines() if line.strip() and not line.startswith(_AROUND)]
    return " ".join(lines) or "nothing more"
