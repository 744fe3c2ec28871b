"""What a card says of a model by the names that ART gives it, and what a caller sets for himself."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gradwire.client import arguments
from gradwire.client.card import ModelCard
from gradwire.client.errors import InvalidCall, Unsupported
from gradwire.wire.tensors import Array


class ModelAttributes:
    """A model's description. What is set here concerns this object alone.

    Attributes:
        card: What the model's owner says of it.
    """

    _settable: ClassVar[frozenset[str]] = frozenset({"clip_values", "preprocessing"})
    """What `set_params` takes."""

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
        """How many classes there are."""
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
        """Whether the channels of images come before their height and width; None if the owner does not say."""
        return self.card.channels_first

    @property
    def channel_index(self) -> int | None:
        """The axis of a batch that holds channels: 1 or the last; ART's older name for `channels_first`."""
        if self.channels_first is None:
            return None
        return 1 if self.channels_first else len(self.input_shape)

    @property
    def layer_names(self) -> list[str]:
        """In the order of their indices."""
        return list(self.card.layer_names)

    @property
    def learning_phase(self) -> bool | None:
        """What `set_learning_phase` said last."""
        return self._learning_phase

    def set_learning_phase(self, train: bool) -> None:
        """What ``training_mode`` is in calls that do not say it; ART's older way. It concerns this object alone."""
        if not isinstance(train, (bool, np.bool_)):
            raise InvalidCall(f"train is {train!r}; expected True or False")
        self._learning_phase = bool(train)

    def get_params(self) -> dict[str, Any]:
        """What ART calls the parameters of an estimator. ``preprocessing`` is (mean, std), or None."""
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
        """Changes how this object uses the model; other callers notice nothing.

        Args:
            clip_values: ``(min, max)``, numbers or arrays.
            preprocessing: ``(mean, std)``, which replaces the server's in each call of this object; None: the server's.

        Raises:
            Unsupported: Anything else belongs to the model's owner.
            InvalidCall: A value is wrong; then nothing has changed.
        """
        fixed = sorted(set(params) - self._settable)
        if fixed:
            raise Unsupported(
                f"{', '.join(fixed)} cannot be changed remotely; the model's owner sets it in the server's configuration. "
                f"{' and '.join(sorted(self._settable))} can."
            )
        clip_values, preprocessing = self._clip_values, self._preprocessing
        if "clip_values" in params:
            clip_values = arguments.clip_values(params["clip_values"])
        if "preprocessing" in params:
            preprocessing = arguments.preprocessing(params["preprocessing"])
        self._clip_values, self._preprocessing = clip_values, preprocessing
