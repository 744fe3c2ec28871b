"""GPy backend: binary Gaussian process classifiers."""

from gradwire.backends.gpy.model import Config, GPyModel, load

__all__ = ["Config", "GPyModel", "load"]
