"""scikit-learn backend: classifiers, regressors and pipelines."""

from gradwire.backends.sklearn.model import Config, SklearnModel, load

__all__ = ["Config", "SklearnModel", "load"]
