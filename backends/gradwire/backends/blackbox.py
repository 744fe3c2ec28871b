"""A callable that answers rows with outputs, and nothing else: code, a remote service, a device.

What it answers is not trusted: every answer is checked before callers get it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import ModelConfigError, ModelFailed
from gradwire.backends.labels import one_hot


class Config(ModelConfig):
    """Keys of a black box."""

    factory: ObjectRef
    """The owner's code; called without positional arguments, returns a callable of rows, or an object with a ``predict``."""


def load(config: Config) -> BlackBoxModel:
    """The model that a configuration describes. Raises ModelConfigError."""
    made = config.factory.build("factory")
    function = made.predict if callable(getattr(made, "predict", None)) else made
    if not callable(function):
        raise ModelConfigError(
            "factory",
            f"{config.factory.path!r} returned {type(made).__name__}; expected a callable of rows, or one with a predict",
        )
    return BlackBoxModel(config, function)


class BlackBoxModel:
    """Predictions of a callable, which gets float32 rows ``(n, *input_shape)``.

    It answers ``(n, C)`` or ``(n,)`` numbers; integers ``(n,)`` from a classifier are class indices.

    Args:
        config: The model's configuration.
        function: What its factory made.
    """

    may_wait = True
    fitted = True

    def __init__(self, config: Config, function: Callable[[Array], Any]) -> None:
        self._config = config
        self._function = function
        self.input_dtype: np.dtype[Any] = np.dtype(np.float32)
        self.output_kind: OutputKind = config.output or ("values" if config.task == "regression" else "probabilities")
        self.layer_names: list[str] = []
        self.loss_name = ""
        self.loss_reduction: Literal["mean", "sum"] = "mean"
        self.device = config.device
        self.notes = ["a black box: training mode changes nothing"]

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        # A copy each way: the callable may work in place on its rows, or keep what it returns.
        result = self._function(np.array(x))
        try:
            outputs = np.array(result)
        except (TypeError, ValueError, RuntimeError) as e:
            raise ModelFailed(f"the callable returned {type(result).__name__}, which is no array: {e}") from e
        if outputs.dtype.kind not in "biuf" or outputs.ndim == 0:
            raise ModelFailed(
                f"the callable returned {type(result).__name__} of dtype {outputs.dtype}; expected numbers ({len(x)}, outputs)"
            )
        if len(outputs) != len(x):
            raise ModelFailed(f"the callable returned {outputs.shape} for {len(x)} rows; expected one row of outputs each")
        if outputs.ndim == 1 and outputs.dtype.kind in "iu" and self._config.task == "classification":
            return self._from_labels(outputs)
        outputs = outputs if outputs.dtype in (np.float32, np.float64) else outputs.astype(np.float32)
        return outputs[:, None] if outputs.ndim == 1 else outputs

    def _from_labels(self, indices: Array) -> Array:
        nb_classes = self._config.nb_classes
        if indices.min() < 0 or indices.max() >= nb_classes:
            wrong = indices[(indices < 0) | (indices >= nb_classes)][0]
            raise ModelFailed(f"the callable returned the label {wrong}; expected 0 to {nb_classes - 1}")
        return one_hot(indices, nb_classes, np.dtype(np.float32))
