"""TensorFlow 2 backend: modules, functions and SavedModels."""

from gradwire.backends.tensorflow.model import Config, TensorFlowModel, load

__all__ = ["Config", "TensorFlowModel", "load"]
