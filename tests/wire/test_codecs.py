"""Codecs follow the contract to the last bit; malformed data are rejected before memory is allocated."""

from __future__ import annotations

import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_DTYPE, ERROR_REASON_BAD_FRAME, ERROR_REASON_BAD_TENSOR, ERROR_REASON_TOO_LARGE
from gradwire.v1.estimator_pb2 import PredictRequest
from gradwire.v1.tensor_pb2 import (
    CODEC_BFLOAT16,
    CODEC_FLOAT16,
    CODEC_SIGN,
    CODEC_UNSPECIFIED,
    DTYPE_BFLOAT16,
    DTYPE_FLOAT16,
    DTYPE_FLOAT32,
    DTYPE_FLOAT64,
    DTYPE_INT64,
    DTYPE_UINT8,
    Codec,
    Dtype,
    Tensor,
)
from gradwire.wire.codecs import CODINGS, decode, encode, name_of
from gradwire.wire.dtypes import to_numpy
from gradwire.wire.errors import WireError
from gradwire.wire.frames import chunk_of, messages
from gradwire.wire.tensors import Assembler, inline, outgoing, spec_of

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
PAIRS = [(codec, dtype) for codec in CODINGS for dtype in sorted(CODINGS[codec].dtypes)]
TERABYTES = 1 << 42

# A loaded machine is no failure.
proof = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def coded(draw):
    """A codec and an array that it applies to, of any bits: NaN, infinities, both zeros, subnormal numbers."""
    codec, value = draw(st.sampled_from(PAIRS))
    shape = draw(SHAPES)
    width = 8 * to_numpy(value).itemsize
    # Numbers that halves hold are rare among random bits.
    elements = st.floats(width=width) | st.sampled_from([0.0, -0.0, 1.0, -1.5, 2.0**-24])
    numbers = hnp.arrays(to_numpy(value), shape, elements=elements)
    return codec, draw(numbers)


def expected(array, codec):
    """Encodes an array by the contract, with independent code."""
    with np.errstate(all="ignore"):
        if codec == CODEC_SIGN:
            return np.sign(array)
        if codec == CODEC_FLOAT16:
            return array.astype(np.float16).astype(array.dtype)
        # ml_dtypes rounds float64 twice. Here: to whole multiples of the last place, of which bfloat16 has eight.
        wide = array.astype(np.float64)
        place = np.ldexp(1.0, np.maximum(np.frexp(wide)[1] - 8, -133))
        rounded = np.copysign(np.rint(wide / place) * place, wide)
        largest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
        return np.where(np.abs(rounded) > largest, np.copysign(np.inf, wide), rounded).astype(array.dtype)


def assert_same(actual, wanted, codec):
    assert actual.dtype == wanted.dtype
    assert actual.shape == wanted.shape
    np.testing.assert_array_equal(actual, wanted)
    if codec != CODEC_SIGN:  # there, both zeros are one
        numbers = ~np.isnan(wanted)
        np.testing.assert_array_equal(np.signbit(actual)[numbers], np.signbit(wanted)[numbers])


def receive(sent, block_rows=None, into=None):
    """Reads the header and the blocks of a call's single tensor from its messages, as a peer does."""
    first, *rest = sent
    (header,) = PredictRequest.FromString(first).tensors
    spec = spec_of(header, 1 << 30)
    if header.data or not spec.nbytes:
        return [inline(header.data, spec)], header
    assembler = Assembler(spec, block_rows, into)
    blocks = []
    for message in rest:
        blocks += assembler.feed(*chunk_of(message))
    assert assembler.complete
    return blocks, header


def header(codec, dtype, shape, nbytes, data=b""):
    return Tensor(name="x", dtype=dtype, shape=shape, nbytes=nbytes, codec=codec, data=data)


def refused(reason, action):
    """The text of the WireError that the action must raise, having taken next to no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(WireError) as error:
            action()
        peak_nbytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.value.reason == reason
    assert peak_nbytes < 1 << 20
    return str(error.value)


def test_every_codec_of_the_contract_is_served():
    assert set(CODINGS) == set(Codec.values()) - {CODEC_UNSPECIFIED}
    assert [name_of(codec) for codec in sorted(CODINGS)] == ["float16", "bfloat16", "sign"]


# What arrives.


@proof
@given(coded(), st.integers(1, 40), st.none() | st.integers(1, 3))
def test_every_array_arrives_as_the_contract_says_however_it_is_cut(case, chunk_nbytes, block_rows):
    codec, array = case
    blocks, sent = receive(messages(b"", [("x", outgoing(array, codec))], chunk_nbytes), block_rows)
    assert sent.codec == codec
    assert all(block.flags.writeable for block in blocks)
    assert_same(blocks[0] if array.ndim == 0 else np.concatenate(blocks), expected(array, codec), codec)


@proof
@given(coded(), st.integers(1, 40))
def test_an_array_is_decoded_into_the_memory_that_waits_for_it(case, chunk_nbytes):
    codec, array = case
    around = np.full((3, *array.shape), 7, array.dtype)
    blocks, sent = receive(messages(b"", [("x", outgoing(array, codec))], chunk_nbytes), into=around[1, ...])
    if sent.nbytes > chunk_nbytes:
        assert np.shares_memory(blocks[0], around)
        assert_same(around[1, ...], expected(array, codec), codec)
        assert (around[::2] == 7).all()


@proof
@given(coded(), st.data())
def test_rows_are_encoded_without_those_around_them(case, data):
    codec, array = case
    whole = bytes(encode(array, codec))
    assert len(whole) == spec_of(header(codec, outgoing(array).value, array.shape, len(whole)), 0).wire_nbytes <= array.nbytes
    if array.ndim and len(array):
        cut = data.draw(st.integers(0, len(array)))
        assert bytes(encode(array[:cut], codec)) + bytes(encode(array[cut:], codec)) == whole


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 7), (2, 4), (4, 9, 5), (100, 1), (1, 300_001), (40, 30_000), ()])
@pytest.mark.parametrize("codec", sorted(CODINGS), ids=name_of)
def test_blocks_hold_the_rows_asked_for_and_come_as_soon_as_they_are_there(codec, shape):
    array = np.random.default_rng(0).choice(np.array([-2, -0.0, 0, 1, np.nan], np.float32), shape)
    sent = bytes(encode(array, codec))
    for block_rows in (1, 3, None):
        assembler = Assembler(spec_of(header(codec, DTYPE_FLOAT32, shape, len(sent)), 0), block_rows)
        rows = shape[0] if shape else 1
        block_nbytes = len(sent) // rows * min(block_rows or rows, rows)
        blocks, step = [], max(1, len(sent) // 7)
        for begin in range(0, len(sent), step):
            blocks += assembler.feed(begin, sent[begin : begin + step])
            end = min(begin + step, len(sent))
            assert len(blocks) == (math.ceil(len(sent) / block_nbytes) if end == len(sent) else end // block_nbytes)
        assert_same(np.concatenate(blocks) if shape else blocks[0], expected(array, codec), codec)


def test_no_more_than_a_block_is_held():
    rows = np.ones((64, 1 << 18), np.float32)
    sent = bytes(encode(rows, CODEC_SIGN))
    assembler = Assembler(spec_of(header(CODEC_SIGN, DTYPE_FLOAT32, rows.shape, len(sent)), 0), 2)
    tracemalloc.start()
    for begin in range(0, len(sent), 1 << 20):
        for block in assembler.feed(begin, sent[begin : begin + (1 << 20)]):
            assert (block == 1).all()
    peak_nbytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A block of 2 MiB, the one before it, the mask of its comparison, the decoded stage and a chunk; of 64 MiB in all.
    assert peak_nbytes < 10 << 20


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("codec", [CODEC_FLOAT16, CODEC_BFLOAT16], ids=name_of)
def test_halves_survive_and_ties_go_to_the_even_one(codec, dtype):
    half = np.dtype(np.float16 if codec == CODEC_FLOAT16 else ml_dtypes.bfloat16)
    every = np.arange(1 << 16, dtype=np.uint16).view(half)
    every = every[np.isfinite(every.astype(np.float32))].astype(dtype)
    assert_same(round_trip(every, codec), every, codec)
    # One in the middle of each two neighbours, and the numbers next to it.
    ordered = np.unique(every)
    middles = ordered[1:] / 2 + ordered[:-1] / 2
    for numbers in (middles, np.nextafter(middles, dtype(np.inf)), np.nextafter(middles, dtype(-np.inf))):
        assert_same(round_trip(numbers, codec), expected(numbers, codec), codec)


def test_float64_is_rounded_once():
    # In float32 this is a tie of two bfloat16 numbers; in float64 it is not.
    number = np.float64(1) + 2.0**-8 + 2.0**-40
    assert np.float32(number) == 1 + 2.0**-8
    assert round_trip(np.array([number, -number]), CODEC_BFLOAT16).tolist() == [1 + 2.0**-7, -1 - 2.0**-7]
    huge = np.array([1e300, -1e300, 3.4e38, 1e-300, -1e-46, 5e-324])
    assert_same(round_trip(huge, CODEC_BFLOAT16), np.array([np.inf, -np.inf, np.inf, 0.0, -0.0, 0.0]), CODEC_BFLOAT16)


@pytest.mark.parametrize("codec", sorted(CODINGS), ids=name_of)
def test_every_nan_stays_one_and_infinities_stay_infinite(codec):
    bits = [0x7F800001, 0x7F80FFFF, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF, 0x7FC00000]
    assert np.isnan(round_trip(np.array(bits, np.uint32).view(np.float32), codec)).all()
    assert np.isnan(round_trip(np.array([0x7FF0000000000001, (1 << 64) - 1], np.uint64).view(np.float64), codec)).all()
    infinities = np.array([np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(round_trip(infinities, codec), expected(infinities, codec))


@pytest.mark.filterwarnings("error")
def test_too_large_numbers_become_infinite_without_a_warning():
    numbers = np.array([65504, 65519, 65520, -1e38, 3.4e38, np.nan], np.float32)
    assert round_trip(numbers, CODEC_FLOAT16)[:-1].tolist() == [65504, 65504, np.inf, -np.inf, np.inf]
    assert round_trip(numbers, CODEC_BFLOAT16)[4] == np.inf
    round_trip(numbers, CODEC_SIGN)


@proof
@given(hnp.arrays(st.sampled_from([np.float16, np.float32, np.float64]), SHAPES))
def test_signs_are_numpys(array):
    np.testing.assert_array_equal(round_trip(array, CODEC_SIGN), np.sign(array))
    np.testing.assert_array_equal(np.sign(round_trip(array, CODEC_SIGN)), np.sign(array))


def test_signs_lie_as_the_contract_says():
    array = np.array([[1, -1, 0, np.nan, 5], [-0.0, 0, 0, -3, -np.inf]], np.float64)
    assert bytes(encode(array, CODEC_SIGN)) == bytes([0b11_00_10_01, 0b01, 0b10_00_00_00, 0b10])
    assert bytes(encode(np.array(-2.0), CODEC_SIGN)) == b"\x02"
    # What is left over in a row's last byte says nothing.
    into = np.empty((1, 5), np.float32)
    decode(np.array([0b11_00_10_01, 0xFD], np.uint8), CODEC_SIGN, into)
    np.testing.assert_array_equal(into, [[1, -1, 0, np.nan, 1]])


@pytest.mark.parametrize("codec", sorted(CODINGS), ids=name_of)
@pytest.mark.parametrize("array", [np.arange(6), np.ones(3, bool), np.ones(3, np.uint8), np.ones(3, ml_dtypes.bfloat16)],
                         ids=["int64", "bool", "uint8", "bfloat16"])  # fmt: skip
def test_what_a_codec_does_not_apply_to_travels_as_it_is(codec, array):
    [result], sent = receive(messages(b"", [("x", outgoing(array, codec))]))
    assert sent.codec == CODEC_UNSPECIFIED
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


def round_trip(array, codec):
    [result], sent = receive(messages(b"", [("x", outgoing(array, codec))]))
    assert sent.codec == codec
    return result


# What is refused.


@pytest.mark.parametrize("codec", sorted(CODINGS), ids=name_of)
@pytest.mark.parametrize("dtype", [DTYPE_INT64, DTYPE_UINT8, DTYPE_BFLOAT16], ids=Dtype.Name)
def test_a_header_with_a_codec_that_does_not_apply_to_its_dtype_is_refused(codec, dtype):
    text = refused(ERROR_REASON_BAD_DTYPE, lambda: spec_of(header(codec, dtype, [2], 4), 0))
    assert name_of(codec) in text
    assert "float32, float64" in text


def test_halves_are_not_rounded_to_halves():
    for codec in (CODEC_FLOAT16, CODEC_BFLOAT16):
        refused(ERROR_REASON_BAD_DTYPE, lambda codec=codec: spec_of(header(codec, DTYPE_FLOAT16, [2], 4), 0))


@proof
@given(st.sampled_from(PAIRS), SHAPES, st.integers(0, 2**64 - 1))
@example((CODEC_SIGN, DTYPE_FLOAT32), (3, 5), 4)  # 30 bits, but each row has two bytes
@example((CODEC_SIGN, DTYPE_FLOAT32), (3, 5), 60)
@example((CODEC_FLOAT16, DTYPE_FLOAT64), (3, 5), 60)
@example((CODEC_SIGN, DTYPE_FLOAT64), (), 0)
def test_a_byte_count_that_does_not_agree_with_the_codec_is_refused(pair, shape, nbytes):
    codec, dtype = pair
    rows, size = (shape[0] if shape else 1), math.prod(shape[1:])
    right = rows * (math.ceil(size / 4) if codec == CODEC_SIGN else 2 * size)
    assert spec_of(header(codec, dtype, shape, right), 0).wire_nbytes == right
    if nbytes != right:
        with pytest.raises(WireError, match=f"announces {nbytes} bytes.*codec {name_of(codec)} has {right}") as error:
            spec_of(header(codec, dtype, shape, nbytes), 0)
        assert error.value.reason == ERROR_REASON_BAD_TENSOR


@pytest.mark.parametrize(("codec", "dtype"), PAIRS)
def test_limits_count_what_the_elements_take_in_memory(codec, dtype):
    shape = (TERABYTES // 64, 16)
    rows_nbytes = shape[0] * CODINGS[codec].row_nbytes(16)
    in_memory = shape[0] * 16 * to_numpy(dtype).itemsize
    assert rows_nbytes < in_memory
    sent = header(codec, dtype, shape, rows_nbytes)
    assert "max_tensor_bytes" in refused(ERROR_REASON_TOO_LARGE, lambda: spec_of(sent, in_memory - 1))
    checked = spec_of(sent, in_memory)
    assert (checked.nbytes, checked.wire_nbytes) == (in_memory, rows_nbytes)
    # Nothing is taken for what was only announced.
    refused(ERROR_REASON_BAD_TENSOR, lambda: inline(b"abc", checked))
    refused(ERROR_REASON_BAD_FRAME, lambda: Assembler(checked, 4).feed(7, b"abc"))


@pytest.mark.parametrize("codec", sorted(CODINGS), ids=name_of)
def test_sizes_that_no_memory_can_address_are_refused_though_fewer_bytes_travel(codec):
    shape = [2**61]
    nbytes = 2**61 if codec == CODEC_SIGN else 2**62
    refused(ERROR_REASON_TOO_LARGE, lambda: spec_of(header(codec, DTYPE_FLOAT64, shape, nbytes), 0))


@pytest.mark.parametrize("block_rows", [None, 1, 2])
def test_bytes_beyond_the_encoded_ones_are_refused_and_change_nothing(block_rows):
    array = np.arange(-6, 6, dtype=np.float64).reshape(3, 4)
    sent = bytes(encode(array, CODEC_FLOAT16))
    assembler = Assembler(spec_of(header(CODEC_FLOAT16, DTYPE_FLOAT64, array.shape, len(sent)), 0), block_rows)
    blocks = list(assembler.feed(0, sent[:9]))
    assert "the tensor has 24" in refused(ERROR_REASON_BAD_FRAME, lambda: assembler.feed(9, sent[9:] + b"?"))
    assert "expected 9" in refused(ERROR_REASON_BAD_FRAME, lambda: assembler.feed(0, sent))
    blocks += assembler.feed(9, sent[9:])
    np.testing.assert_array_equal(np.concatenate(blocks), array)
