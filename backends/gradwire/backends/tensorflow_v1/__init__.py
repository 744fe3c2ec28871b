"""TensorFlow 1 backend: graphs and sessions."""

from gradwire.backends.tensorflow_v1.graph import Graph
from gradwire.backends.tensorflow_v1.model import Config, TensorFlowV1Model, load

__all__ = ["Config", "Graph", "TensorFlowV1Model", "load"]
