"""What a caller is ready to lose for fewer bytes on a slow link. Nothing, unless it says so."""

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
"""+1, -1, 0 and NaN where `numpy.sign` says so, in two bits."""

_NUMBERS = {name_of(codec): codec for codec in CODINGS}
_ROUNDING = tuple(name for name, codec in _NUMBERS.items() if not CODINGS[codec].of_gradients)


@dataclass(frozen=True)
class Codecs:
    """How the arrays of an estimator's calls travel; None: as they are. See `RemoteEstimator.with_codecs`.

    Attributes:
        inputs: Rows of all operations but fits. Those that travel in fewer bytes already (uint8, float16) are not touched.
        gradients: What `loss_gradient`, `class_gradient` and `vjp` answer.
        outputs: What `predict` and `get_activations` answer.
    """

    inputs: Rounding | None = None
    gradients: Rounding | Sign | None = None
    outputs: Rounding | None = None

    def check(self, card: ModelCard) -> None:
        """Raises InvalidCall if there is no such codec, Unsupported if the server does not have it."""
        for field in fields(self):
            value, known = getattr(self, field.name), tuple(_NUMBERS) if field.name == "gradients" else _ROUNDING
            if value is not None and value not in known:
                raise InvalidCall(f"{field.name} is {value!r:.100}; expected None, or one of: {', '.join(known)}")
            if value is not None and value not in card.codecs:
                offered = ", ".join(sorted(card.codecs)) or "none"
                raise Unsupported(f"{field.name} is {value!r}; the server of {card.name!r} knows of these codecs: {offered}")


def number_of(name: str | None) -> Codec:
    """The contract's number of a codec that `Codecs.check` has let pass."""
    return CODEC_UNSPECIFIED if name is None else _NUMBERS[name]
