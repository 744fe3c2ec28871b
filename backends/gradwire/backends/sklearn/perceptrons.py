"""Multi-layer perceptrons, as chains of affine maps and activation functions.

The output of the last affine map is the score: MLPClassifier returns its softmax, with two classes its logistic function,
which is softmax of ``(0, f)``; MLPRegressor returns it unchanged, or its exponential after a Poisson loss. Layers are the
hidden ones after their activation function, beginning with ``hidden_0`` after ``coefs_[0]``, and the model's ``output``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire.backends.sklearn.gradients import EXP, LOGISTIC, RELU, TANH, Affine, Differentiable, chain

_ACTIVATIONS: dict[str, tuple[Differentiable, ...]] = {
    "identity": (),
    "logistic": (LOGISTIC,),
    "relu": (RELU,),
    "tanh": (TANH,),
}


def layer_names(model: Any) -> list[str]:
    """The layers of an MLPClassifier or MLPRegressor, fitted or not, the output last."""
    return [*(f"hidden_{i}" for i in range(np.size(model.hidden_layer_sizes))), "output"]


def hidden_layers(model: Any) -> list[Differentiable]:
    """Outputs of each hidden layer of a fitted network, as functions of the network's inputs."""
    steps = _hidden(model)
    return [chain(*steps[: i + 1]) for i in range(len(steps))]


def scores(model: Any) -> Differentiable:
    """One score a class of a fitted MLPClassifier."""
    weights, intercept = _affine(model, -1)
    if len(weights) == 1:
        weights, intercept = np.concatenate([0 * weights, weights]), np.concatenate([[0.0], intercept])
    return chain(*_hidden(model), Affine(weights, intercept))


def values(model: Any) -> Differentiable:
    """The outputs of a fitted MLPRegressor."""
    last = Affine(*_affine(model, -1))
    return chain(*_hidden(model), last, *((EXP,) if model.out_activation_ == "exp" else ()))


def _hidden(model: Any) -> list[Differentiable]:
    after = _ACTIVATIONS[model.activation]
    return [chain(Affine(*_affine(model, i)), *after) for i in range(len(model.coefs_) - 1)]


def _affine(model: Any, layer: int) -> tuple[Any, Any]:
    return np.asarray(model.coefs_[layer].T, np.float64, "C"), np.asarray(model.intercepts_[layer], np.float64)
