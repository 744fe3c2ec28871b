"""Sessions of TensorFlow 1 on a named device."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from gradwire.backends.errors import ModelConfigError


def session_on(name: str) -> Any:
    """Makes a session of an empty graph for a device, ``cpu``, ``gpu`` or ``gpu:N``.

    Raises:
        ModelConfigError: The GPU does not exist.
    """
    if name == "cpu":
        config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    else:
        count = len(tf.config.list_physical_devices("GPU"))
        if _index(name) >= count:
            raise ModelConfigError("device", f"{name} is not available; TensorFlow sees {count} GPU(s), and cpu")
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
        # Otherwise the first session takes all of the GPU's memory.
        config.gpu_options.allow_growth = True
    return tf.compat.v1.Session(graph=tf.Graph(), config=config)


def placement(name: str) -> str | None:
    """The device for the operations of a graph; None leaves them where TensorFlow puts them."""
    return None if name == "cpu" else f"/device:GPU:{_index(name)}"


def device_of(session: Any) -> str:
    """The device of an owner's session: ``gpu`` if it has one, else ``cpu``."""
    return "gpu" if any(device.device_type == "GPU" for device in session.list_devices()) else "cpu"


def _index(name: str) -> int:
    return int(name.partition(":")[2] or 0)
