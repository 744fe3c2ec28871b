"""Keras 3 backend, on TensorFlow."""

from gradwire.backends.keras.model import Config, load

__all__ = ["Config", "load"]
