"""Element types: one table between the contract's enum and numpy's dtypes.

numpy has bfloat16 only if ``ml_dtypes`` is installed. Without it a bfloat16 tensor is widened to float32, which holds all
its values exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_DTYPE
from gradwire.v1.tensor_pb2 import (
    DTYPE_BFLOAT16,
    DTYPE_BOOL,
    DTYPE_FLOAT16,
    DTYPE_FLOAT32,
    DTYPE_FLOAT64,
    DTYPE_INT8,
    DTYPE_INT16,
    DTYPE_INT32,
    DTYPE_INT64,
    DTYPE_UINT8,
    DTYPE_UNSPECIFIED,
    Dtype,
)
from gradwire.wire.errors import WireError

try:
    from ml_dtypes import bfloat16 as _bfloat16
except ModuleNotFoundError:
    BFLOAT16: np.dtype[Any] | None = None
else:
    BFLOAT16 = np.dtype(_bfloat16)

_NUMPY: dict[Dtype, np.dtype[Any]] = {
    DTYPE_BOOL: np.dtype("bool"),
    DTYPE_INT8: np.dtype("<i1"),
    DTYPE_INT16: np.dtype("<i2"),
    DTYPE_INT32: np.dtype("<i4"),
    DTYPE_INT64: np.dtype("<i8"),
    DTYPE_UINT8: np.dtype("<u1"),
    DTYPE_FLOAT16: np.dtype("<f2"),
    # The bits, if numpy has no such numbers.
    DTYPE_BFLOAT16: BFLOAT16 or np.dtype("<u2"),
    DTYPE_FLOAT32: np.dtype("<f4"),
    DTYPE_FLOAT64: np.dtype("<f8"),
}
assert set(_NUMPY) == set(Dtype.values()) - {DTYPE_UNSPECIFIED}

_CONTRACT = {dtype: value for value, dtype in _NUMPY.items() if value != DTYPE_BFLOAT16 or BFLOAT16 is not None}

_NAMES = ", ".join(Dtype.Name(value).removeprefix("DTYPE_").lower() for value in _NUMPY)


def to_contract(dtype: np.dtype[Any]) -> Dtype:
    """Returns the contract's value for a numpy dtype of any byte order. Raises WireError if there is none."""
    try:
        return _CONTRACT[dtype if dtype.byteorder == "|" else dtype.newbyteorder("<")]
    except KeyError:
        raise WireError(ERROR_REASON_BAD_DTYPE, f"dtype {dtype} cannot be sent; cast the array to one of: {_NAMES}") from None


def travelling(dtype: np.dtype[Any]) -> tuple[Dtype, np.dtype[Any]]:
    """Returns the contract's value for a numpy dtype, and the little-endian dtype to send. Raises as `to_contract`."""
    value = to_contract(dtype)
    return value, _NUMPY[value]


def to_numpy(value: Dtype) -> np.dtype[Any]:
    """Returns the little-endian numpy dtype of a contract value; bfloat16 without ``ml_dtypes`` as bits. Raises WireError."""
    try:
        return _NUMPY[value]
    except KeyError:
        text = f"unknown dtype number {value}; expected one of: {_NAMES}"
        raise WireError(ERROR_REASON_BAD_DTYPE, text) from None


def widened(array: NDArray[Any], value: Dtype) -> NDArray[Any]:
    """Converts bfloat16 bits to float32 if numpy has no bfloat16; returns other arrays as they are."""
    if value != DTYPE_BFLOAT16 or BFLOAT16 is not None:
        return array
    # Shifted as uint32 by name: numpy 1 makes int64 of a scalar shifted by a Python int.
    bits = np.asarray(np.left_shift(array, 16, dtype=np.uint32))
    return bits.view(np.float32)
