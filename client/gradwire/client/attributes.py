"""Attributes and parameters of a remote model, under the names that ART uses."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gradwire.client import arguments
from gradwire.client.card import ModelCard
from gradwire.client.errors import InvalidCall, Unsupported
from gradwire.wire.tensors import Array


class ModelAttributes:
    """Attributes and parameters of a remote model. Changes affect this object only.

    Attributes:
        card: The model's card.
    """

    _settable: ClassVar[frozenset[str]] = frozenset({"clip_values", "preprocessing"})
    """The parameters that `set_params` accepts."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self._clip_values = card.clip_values
        self._preprocessing: tuple[Any, Any] | None = None
        self._learning_phase: bool | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Sizes of a row's axes."""
        return self.card.input_shape

    @property
    def nb_classes(self) -> int:
        """The number of classes."""
        return self.card.nb_classes

    @property
    def clip_values(self) -> Array | tuple[Array, Array] | None:
        """Least and greatest input values, float32: one array of two numbers, or two arrays."""
        values = self._clip_values
        if values is not None and values[0].ndim == values[1].ndim == 0:
            return np.array(values, np.float32)
        return values

    @property
    def channels_first(self) -> bool | None:
        """True if images have their channels before height and width; None if the owner has not set it."""
        return self.card.channels_first

    @property
    def channel_index(self) -> int | None:
        """The axis of a batch that holds channels: 1 or the last; ART's older name for `channels_first`."""
        if self.channels_first is None:
            return None
        return 1 if self.channels_first else len(self.input_shape)

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers, in the order of their indices."""
        return list(self.card.layer_names)

    @property
    def learning_phase(self) -> bool | None:
        """The mode that `set_learning_phase` has set; None if it was never called."""
        return self._learning_phase

    def set_learning_phase(self, train: bool) -> None:
        """Sets the default of ``training_mode`` for calls of this object; ART's older interface."""
        if not isinstance(train, (bool, np.bool_)):
            raise InvalidCall(f"train is {train!r}; expected True or False")
        self._learning_phase = bool(train)

    def get_params(self) -> dict[str, Any]:
        """Returns the parameters of an ART estimator by name. ``preprocessing`` is (mean, std), or None."""
        return {
            "clip_values": self.clip_values,
            "preprocessing": self._preprocessing if self._preprocessing is not None else self.card.preprocessing,
            "preprocessing_defences": list(self.card.preprocessing_defences),
            "postprocessing_defences": list(self.card.postprocessing_defences),
            "channels_first": self.channels_first,
            "nb_classes": self.nb_classes,
            "input_shape": self.input_shape,
            "layer_names": self.layer_names,
            "learning_phase": self._learning_phase,
        }

    def set_params(self, **params: Any) -> None:
        """Sets parameters of this object; other callers are not affected.

        Args:
            **params: ``clip_values``, ``(min, max)``, numbers or arrays; ``preprocessing``, ``(mean, std)``, which replaces the
                server's in each call of this object, or None for the server's.

        Raises:
            Unsupported: Another parameter; only the model's owner can change it.
            InvalidCall: A value is wrong; nothing has changed.
        """
        fixed = sorted(set(params) - self._settable)
        if fixed:
            raise Unsupported(
                f"{', '.join(fixed)} cannot be changed remotely; only the model's owner can, in the server's configuration. "
                f"Remotely, {' and '.join(sorted(self._settable))} can be changed."
            )
        clip_values, preprocessing = self._clip_values, self._preprocessing
        if "clip_values" in params:
            clip_values = arguments.clip_values(params["clip_values"])
        if "preprocessing" in params:
            preprocessing = arguments.preprocessing(params["preprocessing"])
        self._clip_values, self._preprocessing = clip_values, preprocessing
