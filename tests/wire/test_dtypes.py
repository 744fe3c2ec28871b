"""The table of element types is complete, and true in both directions."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_DTYPE
from gradwire.v1.tensor_pb2 import DTYPE_BFLOAT16, DTYPE_UNSPECIFIED, Dtype
from gradwire.wire.dtypes import to_contract, to_numpy, widened
from gradwire.wire.errors import WireError

CONTRACT = [value for value in Dtype.values() if value != DTYPE_UNSPECIFIED]
REFUSED = ["object", "complex64", "complex128", "datetime64[s]", ">M8[ns]", "timedelta64[s]", "uint16", "uint32", "uint64"]
REFUSED += ["str", "<U3", "S3", "V4", "longdouble", "f4,f4", "(2,)f4"]


def contract_name(value: Dtype) -> str:
    return Dtype.Name(value).removeprefix("DTYPE_").lower()


def numpy_dtype(value: Dtype) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if value == DTYPE_BFLOAT16 else contract_name(value))


@pytest.mark.parametrize("value", CONTRACT, ids=contract_name)
def test_a_contract_dtype_is_the_numpy_dtype_of_its_name_both_ways(value):
    assert to_numpy(value) == numpy_dtype(value)
    assert to_contract(numpy_dtype(value)) == value


@pytest.mark.parametrize("value", CONTRACT, ids=contract_name)
def test_the_byte_order_of_an_array_does_not_change_its_contract_dtype(value):
    for order in "<>=":
        assert to_contract(numpy_dtype(value).newbyteorder(order)) == value


def test_platform_names_of_an_integer_are_the_integer():
    for name in ("intc", "int", "longlong"):
        assert numpy_dtype(to_contract(np.dtype(name))) == np.dtype(name)


@pytest.mark.parametrize("name", REFUSED)
def test_a_dtype_outside_the_contract_is_refused_with_those_inside(name):
    with pytest.raises(WireError, match=r"bool, int8, .*bfloat16, float32, float64") as error:
        to_contract(np.dtype(name))
    assert error.value.reason == ERROR_REASON_BAD_DTYPE


def test_a_dtype_that_only_ml_dtypes_knows_is_refused():
    with pytest.raises(WireError, match="float8_e4m3fn"):
        to_contract(np.dtype(ml_dtypes.float8_e4m3fn))


@pytest.mark.parametrize("value", [DTYPE_UNSPECIFIED, max(Dtype.values()) + 1, -1, 2**31 - 1])
def test_a_number_outside_the_contract_is_refused(value):
    with pytest.raises(WireError, match=f"unknown dtype number {value};") as error:
        to_numpy(value)
    assert error.value.reason == ERROR_REASON_BAD_DTYPE


@pytest.mark.parametrize("value", CONTRACT, ids=contract_name)
def test_nothing_is_widened_where_numpy_has_bfloat16(value):
    array = np.zeros((2, 3), numpy_dtype(value))
    assert widened(array, value) is array


WITHOUT_ML_DTYPES = """
import sys

sys.modules["ml_dtypes"] = None

import numpy as np

from gradwire.v1.tensor_pb2 import DTYPE_BFLOAT16, DTYPE_FLOAT32, Tensor
from gradwire.wire.dtypes import BFLOAT16, to_contract
from gradwire.wire.errors import WireError
from gradwire.wire.tensors import Assembler, inline, spec_of


def received(shape, bits, block_rows=None, into=False):
    header = Tensor(name="x", dtype=DTYPE_BFLOAT16, shape=shape, nbytes=bits.nbytes)
    spec = spec_of(header, 0)
    if block_rows is None and not into:
        header.data = bits.tobytes()
        yield inline(header.data, spec)
        return
    assembler = Assembler(spec, block_rows, np.empty(shape, "<u2") if into else None)
    data, step = bits.tobytes(), 1001
    for offset in range(0, len(data), step):
        yield from assembler.feed(offset, data[offset : offset + step])
    assert assembler.complete


assert BFLOAT16 is None
every = np.arange(1 << 16, dtype="<u2")
arrays = [
    *received((256, 256), every),
    *received((256, 256), every, block_rows=100),
    *received((256, 256), every, into=True),
    *received((), every[0x3FC0:0x3FC1]),
    *received((3, 0), every[:0]),
]
assert [array.shape for array in arrays] == [(256, 256), (100, 256), (100, 256), (56, 256), (256, 256), (), (3, 0)]
for array in arrays:
    assert isinstance(array, np.ndarray) and array.dtype == np.float32 and array.flags.writeable
    sys.stdout.buffer.write(array.tobytes())

assert to_contract(np.dtype("float32")) == DTYPE_FLOAT32
try:
    to_contract(np.dtype("uint16"))
except WireError:
    pass
else:
    raise AssertionError("uint16 was taken for the bits of bfloat16")
"""


def test_without_ml_dtypes_a_bfloat16_tensor_arrives_as_the_same_numbers_in_float32():
    done = subprocess.run([sys.executable, "-c", WITHOUT_ML_DTYPES], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    numbers = np.frombuffer(done.stdout, np.float32)
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(numbers, np.concatenate([every, every, every, [np.float32(1.5)]]))
