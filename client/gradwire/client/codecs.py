"""Codecs for arrays on slow links: fewer bytes for less precision. None by default."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from gradwire.client.card import ModelCard
from gradwire.client.errors import InvalidCall, Unsupported
from gradwire.v1.tensor_pb2 import CODEC_UNSPECIFIED, Codec
from gradwire.wire.codecs import CODINGS, name_of

Rounding: TypeAlias = Literal["float16", "bfloat16"]
"""Numbers of two bytes: 11 bits of precision up to 65504, or 8 bits in float32's range."""

Sign: TypeAlias = Literal["sign"]
"""+1, -1, 0 or NaN as `numpy.sign` gives them, in two bits."""

_NUMBERS = {name_of(codec): codec for codec in CODINGS}
_ROUNDING = tuple(name for name, codec in _NUMBERS.items() if not CODINGS[codec].of_gradients)


@dataclass(frozen=True)
class Codecs:
    """Codecs of an estimator's arrays; None: sent as they are. See `RemoteEstimator.with_codecs`.

    Attributes:
        inputs: Rows of all operations except fits. Dtypes of fewer bytes (uint8, float16) are left alone.
        gradients: Results of `loss_gradient`, `class_gradient` and `vjp`.
        outputs: Results of `predict` and `get_activations`.
    """

    inputs: Rounding | None = None
    gradients: Rounding | Sign | None = None
    outputs: Rounding | None = None

    def check(self, card: ModelCard) -> None:
        """Checks the codecs. Raises InvalidCall for an unknown codec, Unsupported for one that the server lacks."""
        for field in fields(self):
            value, known = getattr(self, field.name), tuple(_NUMBERS) if field.name == "gradients" else _ROUNDING
            if value is not None and value not in known:
                raise InvalidCall(f"{field.name} is {value!r:.100}; expected None, or one of: {', '.join(known)}")
            if value is not None and value not in card.codecs:
                offered = ", ".join(sorted(card.codecs)) or "none"
                raise Unsupported(f"{field.name} is {value!r}; the server of {card.name!r} supports: {offered}")


def number_of(name: str | None) -> Codec:
    """Returns the contract's number of a checked codec."""
    return CODEC_UNSPECIFIED if name is None else _NUMBERS[name]
