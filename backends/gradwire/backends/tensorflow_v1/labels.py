"""The form of labels that a TensorFlow 1 graph's placeholder takes, derived from its dtype and shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire.backends import labels, loss_targets
from gradwire.backends.backend import Array
from gradwire.backends.errors import InvalidLabel, ModelConfigError


class LabelForm:
    """Converts labels, as `labels.canonical` returns them, to the form that the placeholder takes.

    A vector or a column takes class indices; of a model with one output, if it is floating, the weight of class 1. Rows of
    several columns take one-hot rows, and soft ones if they are floating. Without a known shape, integers are indices and
    floats are rows. In regression any shape takes targets.

    Args:
        placeholder: The labels placeholder.
        nb_outputs: How many outputs the model has.
        nb_classes: How many classes there are.
        regression: Labels are targets.
        key: The configuration key that the graph comes from, for errors.
    """

    def __init__(self, placeholder: Any, nb_outputs: int, nb_classes: int, regression: bool, key: str) -> None:
        self._dtype = np.dtype(placeholder.dtype.as_numpy_dtype)
        self._nb_outputs = nb_outputs
        self._nb_classes = nb_classes
        self._regression = regression
        shape = placeholder.shape.as_list() if placeholder.shape.rank is not None else None
        floating = self._dtype.kind not in "biu"
        if shape is not None and (not shape or (not regression and len(shape) > 2)):
            raise ModelConfigError(key, f"labels has shape {placeholder.shape}; expected (None,) for indices or (None, C) for rows")
        if shape is None:
            shape = [None] if not floating else [None, None]
        if any(size is None for size in shape[2:]):
            raise ModelConfigError(key, f"labels has shape {placeholder.shape}; expected sizes for all axes but the first two")
        if shape[0] is not None:
            raise ModelConfigError(key, f"labels has a fixed number of rows, {placeholder.shape}; expected None there")
        if len(shape) == 2 and shape[1] is None:
            shape[1] = nb_outputs
        self._row = tuple(nb_outputs if size is None else size for size in shape[1:])
        self._width = self._row[0] if len(self._row) == 1 else 1
        self._weights_of_one = nb_outputs == 1 and floating

    def array(self, y: Array) -> Array:
        """Converts labels for the placeholder. Raises InvalidLabel if it cannot take them."""
        if self._regression:
            return self._of(loss_targets.like_outputs(y, self._row))
        if self._width > 1:
            return self._rows(y)
        if self._weights_of_one:
            return self._of(y if y.ndim == 1 else y[:, 1])
        if y.ndim == 2:
            raise loss_targets.soft_refused(y, "the model's labels placeholder")
        loss_targets.check_indices(y, max(self._nb_outputs, 2), "the model's loss")
        return self._of(y)

    def samples(self, n: int) -> Array:
        """Labels of all classes to try a loss with, in the form for the placeholder. Raises InvalidLabel."""
        if self._regression:
            return self.array(np.random.default_rng(1).normal(size=(n, *self._row)))
        return self.array(np.arange(n) % self._nb_classes)

    def _rows(self, y: Array) -> Array:
        if (y.shape[1] if y.ndim == 2 else y.max() + 1) > self._width:
            raise InvalidLabel(f"labels are of more classes than the {self._width} columns that the model's loss takes")
        if y.ndim == 1:
            return labels.one_hot(y, self._width, self._dtype)
        if self._dtype.kind in "biu":
            raise InvalidLabel(f"labels are soft, {y.shape}; the model's labels placeholder takes {self._dtype}: one-hot rows only")
        if y.shape[1] != self._width:
            raise InvalidLabel(f"labels are rows of {y.shape[1]} classes; the model's loss takes {self._width}")
        return self._of(y)

    def _of(self, y: Array) -> Array:
        return np.array(y, self._dtype, order="C").reshape(len(y), *self._row)
