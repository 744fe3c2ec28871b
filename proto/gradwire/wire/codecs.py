"""Codecs that encode a tensor's elements in fewer bytes, in one table keyed by the contract's enum.

A codec works row by row, and every row (an entry along the first axis; a scalar is one row of one element) has the same number
of bytes. So any run of rows can be encoded and decoded alone.

The contract defines each codec to the last bit: `gradwire/v1/tensor.proto`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradwire.v1.tensor_pb2 import (
    CODEC_BFLOAT16,
    CODEC_FLOAT16,
    CODEC_SIGN,
    CODEC_UNSPECIFIED,
    DTYPE_FLOAT16,
    DTYPE_FLOAT32,
    DTYPE_FLOAT64,
    Codec,
    Dtype,
)

Array: TypeAlias = NDArray[Any]

_HALF = np.dtype("<f2")
_BITS16 = np.dtype("<u2")
_BITS32 = np.dtype("<u4")


@dataclass(frozen=True)
class Coding:
    """Functions of one codec.

    Attributes:
        dtypes: The dtypes that it applies to.
        row_nbytes: Bytes of a row, from its number of elements.
        encode: Makes ``(rows, row_nbytes)`` bytes, uint8, of ``(rows, elements)`` elements.
        decode: Fills ``(rows, elements)``, its second argument, from ``(rows, row_nbytes)`` bytes.
        of_gradients: Whether it is for gradients only, because it drops what other arrays need.
    """

    dtypes: frozenset[Dtype]
    row_nbytes: Callable[[int], int]
    encode: Callable[[Array], Array]
    decode: Callable[[Array, Array], None]
    of_gradients: bool = False


def rows_and_elements(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the number of rows and the number of elements per row."""
    return (shape[0] if shape else 1), math.prod(shape[1:])


def name_of(codec: int) -> str:
    """Returns the name that users type: "float16" for ``CODEC_FLOAT16``."""
    return Codec.Name(codec).removeprefix("CODEC_").lower() if codec in Codec.values() else f"number {codec}"


# float16


def _to_float16(rows: Array) -> Array:
    # The contract wants an infinity in place of a number that is too large: no reason to warn.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return rows.astype(_HALF).view(np.uint8)


def _from_float16(data: Array, into: Array) -> None:
    into[...] = data.view(_HALF)


# bfloat16 without a library for it: the upper halves of float32's bits.


def _to_bfloat16(rows: Array) -> Array:
    single = rows if rows.dtype.itemsize == 4 else _to_odd_float32(rows)
    bits = single.view(_BITS32)
    # To nearest: half of the last place is added, and where that would be a tie, one less if the last place is even.
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    result: Array = rounded.astype(_BITS16)
    nan = np.isnan(single)
    if nan.any():
        # Rounding may turn a NaN into another number; a quiet NaN keeps a set bit.
        result[nan] = bits[nan] >> 16 | 0x40
    return result.view(np.uint8)


def _to_odd_float32(rows: Array) -> Array:
    """Rounds float64 to float32 such that a second rounding equals a single one.

    A value that float32 cannot hold is rounded to the neighbour whose last bit is set ("round to odd": Boldo and
    Melquiond 2008, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd").
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        single: Array = rows.astype("<f4")
    back = single.astype(np.float64)
    bits = single.view(_BITS32)
    # NaN is not less and not greater than anything, and stays.
    even = bits & 1 == 0
    # Bits count magnitudes, whatever the sign.
    magnitude, given = np.abs(back), np.abs(rows)
    bits[even & (magnitude < given)] += 1
    bits[even & (magnitude > given)] -= 1
    return single


def _from_bfloat16(data: Array, into: Array) -> None:
    # Shifted as uint32 by name: numpy 1 makes int64 of a scalar shifted by a Python int.
    into[...] = np.left_shift(data.view(_BITS16), 16, dtype=_BITS32).view("<f4")


# sign


def _to_signs(rows: Array) -> Array:
    bits = np.empty((*rows.shape, 2), np.bool_)
    with np.errstate(invalid="ignore"):
        # Both are true of NaN and neither of the two zeros.
        np.logical_not(rows <= 0, out=bits[..., 0])
        np.logical_not(rows >= 0, out=bits[..., 1])
    return np.packbits(bits.reshape(len(rows), 2 * rows.shape[1]), axis=1, bitorder="little")


def _from_signs(data: Array, into: Array) -> None:
    signs = _signs(into.dtype)[data]
    into[...] = signs.reshape(len(data), 4 * data.shape[1])[:, : into.shape[1]]


@lru_cache(maxsize=8)
def _signs(dtype: np.dtype[Any]) -> Array:
    """Returns the four elements of each byte, ``(256, 4)``."""
    values = np.array([0, 1, -1, np.nan], dtype)
    table: Array = values[np.arange(256)[:, None] >> np.array([0, 2, 4, 6]) & 3]
    return table


_WIDER = frozenset({DTYPE_FLOAT32, DTYPE_FLOAT64})

CODINGS: dict[Codec, Coding] = {
    CODEC_FLOAT16: Coding(_WIDER, lambda n: 2 * n, _to_float16, _from_float16),
    CODEC_BFLOAT16: Coding(_WIDER, lambda n: 2 * n, _to_bfloat16, _from_bfloat16),
    CODEC_SIGN: Coding(_WIDER | {DTYPE_FLOAT16}, lambda n: (n + 3) // 4, _to_signs, _from_signs, of_gradients=True),
}
assert set(CODINGS) == set(Codec.values()) - {CODEC_UNSPECIFIED}


def encode(array: Array, codec: Codec) -> Array:
    """Encodes an array as uint8 ``(nbytes,)``.

    Args:
        array: Little-endian, in C order, of one of the codec's dtypes.
        codec: A key of `CODINGS`.
    """
    rows, elements = rows_and_elements(array.shape)
    return CODINGS[codec].encode(array.reshape(rows, elements)).reshape(-1)


def decode(data: Array, codec: Codec, into: Array) -> None:
    """Decodes bytes into an array.

    Args:
        data: uint8, as many as the codec makes of ``into``'s shape.
        codec: A key of `CODINGS`.
        into: Little-endian, in C order, of one of the codec's dtypes.
    """
    rows, elements = rows_and_elements(into.shape)
    coding = CODINGS[codec]
    coding.decode(data.reshape(rows, coding.row_nbytes(elements)), into.reshape(rows, elements))
