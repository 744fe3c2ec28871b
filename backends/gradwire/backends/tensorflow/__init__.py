"""TensorFlow 2 backend: modules, functions and SavedModels."""

from gradwire.backends.tensorflow.model import Config, load

__all__ = ["Config", "load"]
