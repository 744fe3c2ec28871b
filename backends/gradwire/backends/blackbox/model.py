"""Black boxes, which only predict: code, a remote service, a device, or a table of known answers.

Answers of a callable are not trusted: each is checked before callers get it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from gradwire.backends.backend import Array, OutputKind
from gradwire.backends.blackbox.table import Table, read
from gradwire.backends.config import ModelConfig, ObjectRef
from gradwire.backends.errors import ModelConfigError, ModelFailed
from gradwire.backends.labels import one_hot


class Config(ModelConfig):
    """Keys of a black box."""

    factory: ObjectRef | None = None
    """The owner's code; called without positional arguments, returns a callable of rows, one with a ``predict``, or (x, y)."""
    table: Path | None = None
    """A .npz file of arrays ``x`` and ``y``, in place of a factory: see `table`."""
    coalesce: bool = False
    """Off by default: only the owner knows if the callable treats rows independently, and the price of a repeated call."""
    tolerance: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Largest difference in any number between a row and the table's; if not set, rows are found exactly."""

    @model_validator(mode="after")
    def _factory_or_table(self) -> Config:
        if (self.factory is None) == (self.table is None):
            given = "neither factory nor table is" if self.factory is None else "factory and table are both"
            raise ValueError(f"{given} set; expected exactly one: a callable, or a .npz file of x and y")
        return self


def load(config: Config) -> BlackBoxModel:
    """Loads the callable or the table of a configuration. Raises ModelConfigError."""
    if config.table is not None:
        return _of_table(config, read(config.table), "table")
    assert config.factory is not None
    made = config.factory.build("factory")
    if isinstance(made, tuple) and len(made) == 2:
        return _of_table(config, made, "factory")
    if config.tolerance is not None:
        raise ModelConfigError(
            "tolerance", f"given {config.tolerance:g}, but {config.factory.path!r} returned no table (x, y); leave the key out"
        )
    function = made.predict if callable(getattr(made, "predict", None)) else made
    if not callable(function):
        raise ModelConfigError(
            "factory",
            f"{config.factory.path!r} returned {type(made).__name__}; "
            "expected a callable of rows, one with a predict, or a table (x, y)",
        )
    return BlackBoxModel(config, function)


def _of_table(config: Config, arrays: tuple[Any, Any], key: str) -> BlackBoxModel:
    try:
        x, y = map(np.asarray, arrays)
    except (TypeError, ValueError) as e:
        raise ModelConfigError(key, f"cannot convert the two values returned to arrays: {e}; expected rows x and labels y") from e
    return BlackBoxModel(config, Table(x, y, config.tolerance, config, key))


class BlackBoxModel:
    """Predictions of a callable of rows ``(n, *input_shape)``: float32, or in the precision of a table.

    The callable returns ``(n, C)`` or ``(n,)`` numbers; integers ``(n,)`` from a classifier are class indices.

    Args:
        config: The model's configuration.
        function: The callable that its factory returned, or a table.
    """

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
        self.may_wait = True
        if isinstance(function, Table):
            self.input_dtype, self.example, self.may_wait = function.dtype, function.example, False
            self.notes.append(f"a table of {len(function)} rows; others have no answer")

    def predict(self, x: Array, *, training_mode: bool) -> Array:
        """Outputs ``(n, C)``. Raises ModelFailed if the callable returns anything else."""
        # A copy each way: the callable may work in place on its rows, or keep the array that it returns.
        result = self._function(np.array(x))
        try:
            outputs = np.array(result)
        except (TypeError, ValueError, RuntimeError) as e:
            raise ModelFailed(f"cannot convert the callable's {type(result).__name__} to an array: {e}") from e
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
