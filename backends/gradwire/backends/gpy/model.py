"""GPy's classifiers: two classes, float64, gradients of kernels.

As in ART, class 0 is the one that the model was fitted to as ``y = 1``: outputs are ``(p, 1 - p)`` with the ``p`` of GPy's
``predict``. A process is fitted to its data when it is made, and cannot be fitted again.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from GPy.likelihoods import Bernoulli
from GPy.likelihoods.link_functions import Heaviside, Probit
from GPy.models import GPClassification, SparseGPClassification
from pydantic import model_validator
from scipy.special import log_ndtr, ndtr, xlogy

from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import InvalidLayer, InvalidShape, ModelConfigError
from gradwire.backends.gpy import weights
from gradwire.backends.gpy.gradients import Analytic, Gradient, gradient_of

_LOSSES = {"one_minus_probability": "one minus the probability of the label", "cross_entropy": "cross-entropy"}


class Config(ModelConfig):
    """Keys of a GPy model."""

    factory: ObjectRef | None = None
    """The owner's code; called without positional arguments, returns a ``GPy.models.GPClassification``."""
    loss: Literal["one_minus_probability", "cross_entropy"] = "one_minus_probability"
    """The loss; ART's loss gradients are gradients of the first."""

    @model_validator(mode="after")
    def _something_to_load(self) -> Config:
        if self.factory is None and self.weights is None:
            raise ValueError("neither factory nor weights is set; expected code, a file of GPy's save_model, or both")
        return self


def load(config: Config) -> GPyModel:
    """Loads the model of a configuration. Raises ModelConfigError."""
    model = None if config.factory is None else config.factory.build("factory")
    if model is not None:
        _check(model, "factory")
    if config.weights is not None:
        model = weights.read(config.weights, config.trust_pickle, model)
        _check(model, "weights")
    return GPyModel(config, model)


class GPyModel:
    """Gaussian process with the operations of `backend.Model`, `backend.OptionalOutputs` and `backend.Differentiable`.

    Args:
        config: The model's configuration.
        model: The model from its factory or file, whose parameters must not change any more.
    """

    input_dtype = np.dtype(np.float64)
    device = "cpu"
    may_wait = False
    fitted = True
    loss_reduction: Literal["mean", "sum"] = "sum"

    def __init__(self, config: Config, model: Any) -> None:
        _check_sizes(config, model)
        self._model = model
        self._offset = _offset(model)
        self._cross_entropy = config.loss == "cross_entropy"
        self._gradient: Gradient = gradient_of(model, self._offset, self._z)
        self.layer_names: list[str] = []
        self.loss_name = _LOSSES[config.loss]
        self.output_kind: OutputKind = "probabilities"
        self.notes = ["class 0 is the one that the model was fitted to as y = 1, as in ART; training mode changes nothing"]
        if not isinstance(self._gradient, Analytic):
            kernel = model.kern.name
            self.notes.append(f"gradients are central differences, because GPy has no correct ones for the kernel {kernel!r}")

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Probabilities ``(n, 2)``."""
        z = self._z(self._rows(x))
        # 1 - p would be 0 from z = 8.3 on.
        return np.stack([ndtr(z), ndtr(-z)], axis=1)

    def logits(self, x: Array, *, training_mode: bool) -> Array:
        """The latent mean and its negative, ``(n, 2)``, as in ART."""
        mean, _ = self._model.predict_noiseless(self._rows(x))
        return np.concatenate([mean, -mean], axis=1)

    def uncertainty(self, x: Array, *, training_mode: bool) -> Array:
        """The latent variance, ``(n, 1)``."""
        return np.ascontiguousarray(self._model.predict_noiseless(self._rows(x))[1])

    def loss(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """The loss of each row, ``(n,)``; cross-entropy is exact also for probabilities that are 0 in float64."""
        z, y = self._z(self._rows(x)), _as_rows(y)
        if self._cross_entropy:
            return np.asarray(-(y[:, 0] * log_ndtr(z) + y[:, 1] * log_ndtr(-z)))
        return np.asarray(y[:, 0] * ndtr(-z) + y[:, 1] * ndtr(z))

    def loss_from_predictions(self, predictions: Array, y: Array) -> Array:
        """The loss of each row of probabilities ``(n, 2)``, ``(n,)``."""
        y = _as_rows(y)
        return np.asarray(-xlogy(y, predictions).sum(axis=1) if self._cross_entropy else (y * (1 - predictions)).sum(axis=1))

    def loss_divisor(self, y: Array) -> float:
        """Number of rows. The loss is summed, so that each row's gradient is its own, as in ART."""
        return float(len(y))

    def loss_gradient(self, x: Array, y: Array, *, training_mode: bool) -> Array:
        """Gradient of the summed loss in the shape of ``x``, float64."""
        y = _as_rows(y)
        if self._cross_entropy:
            return self._gradient(self._rows(x), lambda z: y[:, 1] * _ratio(-z) - y[:, 0] * _ratio(z)).reshape(x.shape)
        return self._gradient(self._rows(x), lambda z: (y[:, 1] - y[:, 0]) * _density(z)).reshape(x.shape)

    def class_gradient(self, x: Array, label: Array | None, *, training_mode: bool) -> Array:
        """Class gradients ``(n, 2, *input_shape)``, or ``(n, 1, *input_shape)`` for one label a row."""
        gradient = self._gradient(self._rows(x), _density).reshape(len(x), 1, *x.shape[1:])
        if label is None:
            return np.concatenate([gradient, -gradient], axis=1)
        return gradient * np.where(label == 0, 1.0, -1.0).reshape(-1, *(1,) * x.ndim)

    def vjp(self, x: Array, cotangent: Array, layer: str | int | None, *, training_mode: bool) -> Array:
        """The cotangent ``(n, 2)`` times the Jacobian of the outputs, in the shape of ``x``."""
        if layer is not None:
            raise InvalidLayer(f"layer {layer!r}: Gaussian processes have no layers; leave it out for the outputs")
        return self._gradient(self._rows(x), lambda z: (cotangent[:, 0] - cotangent[:, 1]) * _density(z)).reshape(x.shape)

    # Private.

    def _rows(self, x: Array) -> Array:
        rows = np.ascontiguousarray(x).reshape(len(x), -1)
        if rows.shape[1] != self._model.input_dim:
            raise InvalidShape(f"x has {rows.shape[1]} features; the model was fitted on {self._model.input_dim}")
        return rows

    def _z(self, rows: Array) -> Array:
        """Argument of the link function, ``(n,)``."""
        mean, variance = self._model.predict_noiseless(rows)
        return np.asarray(mean[:, 0] / np.sqrt(self._offset + variance[:, 0]))


def _check(model: Any, key: str) -> None:
    """Raises ModelConfigError unless the model is a classifier whose probabilities have a closed form."""
    if not isinstance(model, GPClassification | SparseGPClassification):
        raise ModelConfigError(
            key, f"gave {type(model).__name__}; expected a GPy.models.GPClassification, or a SparseGPClassification"
        )
    if model.output_dim != 1:
        raise ModelConfigError(key, f"gave a model with {model.output_dim} outputs; expected one column of labels, 0 or 1")
    likelihood = model.likelihood
    if not isinstance(likelihood, Bernoulli) or not isinstance(likelihood.gp_link, Probit | Heaviside):
        link = type(getattr(likelihood, "gp_link", None)).__name__
        raise ModelConfigError(
            key,
            f"gave a model with the likelihood {type(likelihood).__name__} and the link {link}; "
            "expected Bernoulli with Probit or Heaviside, which have probabilities in closed form",
        )
    if model.normalizer is not None:
        raise ModelConfigError(
            key, "gave a model that normalises its labels; class labels must stay 0 or 1: make it without normalizer"
        )


def _check_sizes(config: Config, model: Any) -> None:
    if config.device != "cpu":
        raise ModelConfigError("device", f"{config.device!r}; GPy runs on the cpu")
    if config.task != "classification":
        raise ModelConfigError("task", f"{config.task!r}; expected classification, the task of GPy's GPClassification")
    if config.nb_classes != 2:
        raise ModelConfigError("nb_classes", f"{config.nb_classes}; a GPClassification has 2 classes")
    if -1 not in config.input_shape and math.prod(config.input_shape) != model.input_dim:
        raise ModelConfigError("input_shape", f"{list(config.input_shape)}; the model was fitted on {model.input_dim} features")
    if config.output not in (None, "probabilities"):
        raise ModelConfigError(
            "output", f"{config.output!r}; a GPClassification has probabilities; callers may ask predict for logits"
        )


def _offset(model: Any) -> float:
    """Constant that is added to the variance: 1 for the probit, 0 for the step."""
    return 1.0 if isinstance(model.likelihood.gp_link, Probit) else 0.0


def _as_rows(y: Array) -> Array:
    return np.stack([y == 0, y == 1], axis=1).astype(np.float64) if y.ndim == 1 else y


def _density(z: Array) -> Array:
    """Density of the standard normal distribution, the derivative of ``ndtr``."""
    return np.asarray(np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))


def _ratio(z: Array) -> Array:
    """Derivative of ``log_ndtr``, exact also where numerator and denominator are 0 in float64."""
    return np.asarray(np.exp(-0.5 * z**2 - log_ndtr(z)) / math.sqrt(2 * math.pi))
