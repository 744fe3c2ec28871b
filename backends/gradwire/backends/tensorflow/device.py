"""Devices of TensorFlow models, and TensorFlow and Keras themselves, imported with a quiet log.

Invariant: TensorFlow imported from here does not log the processor's features, and takes only the GPU memory that it needs.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

# Read once, when TensorFlow is imported: 2 leaves warnings out, but not errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

from gradwire.backends.errors import ModelConfigError, ModelFailed, OutOfMemory

__all__ = ["Device", "FrameworkErrors", "keras", "tf"]


class Device:
    """The device that a model computes on.

    Args:
        name: ``cpu``, ``gpu`` or ``gpu:N``.

    Raises:
        ModelConfigError: The GPU does not exist.
    """

    def __init__(self, name: str) -> None:
        gpus = tf.config.list_physical_devices("GPU")
        kind, _, number = name.partition(":")
        if kind == "gpu" and int(number or 0) >= len(gpus):
            raise ModelConfigError("device", f"{name} is not available; TensorFlow sees {len(gpus)} GPU(s), and cpu")
        for gpu in gpus:
            _let_memory_grow(gpu)
        self.name = name
        # Without a GPU no device has to be chosen, and entering a device costs every call 10 microseconds.
        self._path = f"/{kind.upper()}:{number or 0}" if gpus else None

    def __call__(self) -> AbstractContextManager[Any]:
        """The context in which operations run, and variables are made, on the device."""
        return nullcontext() if self._path is None else tf.device(self._path)


def _let_memory_grow(gpu: Any) -> None:
    try:
        tf.config.experimental.set_memory_growth(gpu, True)
    except (RuntimeError, ValueError):
        # TensorFlow computes already, with the setting of the code that began.
        return


class FrameworkErrors(AbstractContextManager[None]):
    """Translates TensorFlow's errors: of a full device, and of a graph, whose text names the server's files."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, tf.errors.ResourceExhaustedError):
            raise OutOfMemory("the device has no room for so many rows; send fewer, or set a smaller max_batch_rows") from error
        if isinstance(error, tf.errors.OpError):
            raise ModelFailed(f"TensorFlow raised {type(error).__name__}: {_text(error)}") from error


_AROUND = ("Graph execution error", "Detected at node", "  File", "\t")


def _text(error: Any) -> str:
    """The text of an error without the places in the code where its operation was made."""
    lines = [line for line in str(error.message).splitlines() if line.strip() and not line.startswith(_AROUND)]
    return " ".join(lines) or "no further text"
