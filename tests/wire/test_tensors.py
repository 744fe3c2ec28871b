"""Arrays survive the wire bit for bit; what is malformed is refused before memory is taken for it."""

from __future__ import annotations

import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradwire.v1.errors_pb2 import (
    ERROR_REASON_BAD_DTYPE,
    ERROR_REASON_BAD_FRAME,
    ERROR_REASON_BAD_SHAPE,
    ERROR_REASON_BAD_TENSOR,
    ERROR_REASON_TOO_LARGE,
    ErrorReason,
)
from gradwire.v1.estimator_pb2 import PredictRequest
from gradwire.v1.tensor_pb2 import (
    DTYPE_BOOL,
    DTYPE_FLOAT32,
    DTYPE_FLOAT64,
    DTYPE_UINT8,
    Tensor,
)
from gradwire.wire.errors import WireError
from gradwire.wire.frames import chunk_of, messages
from gradwire.wire.tensors import MAX_AXES, Assembler, TensorSpec, elements, inline, raw, spec_of

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(name) for name in ("bool", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8")] + [BFLOAT16]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3)
LAYOUTS = {
    "C": lambda array: array,
    "Fortran": np.asfortranarray,
    "transposed": lambda array: array.T,
    "strided": lambda array: array[(..., *[slice(None, None, 2)] * array.ndim)],
    "reversed": lambda array: array[(..., *[slice(None, None, -1)] * array.ndim)],
    "broadcast": lambda array: np.broadcast_to(array, (2, *array.shape)),
    "unaligned": lambda array: np.frombuffer(b"?" + array.tobytes(), array.dtype, array.size, 1).reshape(array.shape),
}
TERABYTES = 1 << 42

# A loaded machine is no failure.
proof = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def arrays(draw, shapes=SHAPES):
    """Any bits in any contract dtype, shape, memory layout and byte order."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(shapes)
    pattern = np.frombuffer(draw(st.binary(min_size=1, max_size=48)), np.uint8)
    data = np.resize(pattern & 1 if dtype.kind == "b" else pattern, math.prod(shape) * dtype.itemsize)
    array = np.frombuffer(bytearray(data), dtype.newbyteorder(draw(st.sampled_from("<>"))), math.prod(shape)).reshape(shape)
    array = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](array)
    if draw(st.booleans()):
        array = array.view()
        array.flags.writeable = False
    return array


def bits(array):
    """The elements' bytes in C order and little-endian, by no code of ours."""
    big = array.dtype.byteorder == ">"
    return np.frombuffer(array.tobytes(), np.uint8).reshape(-1, array.dtype.itemsize)[:, :: -1 if big else 1].tobytes()


def assert_received(result, array):
    assert type(result) is np.ndarray
    assert result.dtype == array.dtype.newbyteorder("<")
    assert result.shape == array.shape
    assert result.flags.writeable
    assert result.tobytes() == bits(array)


def receive(sent, block_rows=None, into=None):
    """The blocks of every tensor of a call, as a peer reads them from the call's messages."""
    first, *rest = sent
    chunks = iter(rest)
    tensors = []
    for header in PredictRequest.FromString(first).tensors:
        spec = spec_of(header, 1 << 20)
        if header.data or not spec.nbytes:
            tensors.append([inline(header.data, spec)])
            continue
        assembler = Assembler(spec, block_rows, into)
        blocks = []
        while not assembler.complete:
            blocks += assembler.feed(*chunk_of(next(chunks)))
        tensors.append(blocks)
    assert next(chunks, None) is None
    return tensors


def spec(shape, dtype=DTYPE_FLOAT32, itemsize=4) -> TensorSpec:
    return spec_of(Tensor(name="x", dtype=dtype, shape=shape, nbytes=math.prod(shape) * itemsize), 0)


def refused(reason, action):
    """The text of the WireError that the action must raise, having taken next to no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(WireError) as error:
            action()
        peak_nbytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ErrorReason.Name(error.value.reason) == ErrorReason.Name(reason)
    assert peak_nbytes < 1 << 20
    return str(error.value)


# What survives.


@proof
@given(st.lists(arrays(), min_size=1, max_size=3), st.integers(1, 600), st.none() | st.integers(1, 5))
def test_every_array_arrives_bit_for_bit_whatever_its_dtype_shape_layout_chunks_and_blocks(given_arrays, chunk_nbytes, block_rows):
    sent = messages(b"", [(f"x{i}", array) for i, array in enumerate(given_arrays)], chunk_nbytes)
    received = receive(sent, block_rows)
    assert len(received) == len(given_arrays)
    for array, blocks in zip(given_arrays, received, strict=True):
        assert_received(blocks[0] if array.ndim == 0 else np.concatenate(blocks), array)


@proof
@given(arrays(), st.integers(1, 64))
def test_an_array_arrives_in_the_memory_that_waits_for_it(array, chunk_nbytes):
    around = np.zeros((3, *array.shape), array.dtype.newbyteorder("<"))
    [blocks] = receive(messages(b"", [("x", array)], chunk_nbytes), into=around[1, ...])
    if array.nbytes > chunk_nbytes:
        assert len(blocks) == 1
        assert np.shares_memory(blocks[0], around)
        assert bits(around[1]) == bits(array)
        assert not any(bits(around[0]) + bits(around[2]))
    assert_received(blocks[0], array)


@proof
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 12), st.data())
def test_blocks_hold_the_rows_asked_for_and_the_last_one_the_rest_however_the_bytes_are_cut(rows, row_size, block_rows, data):
    array = np.arange(rows * row_size, dtype="<i4").reshape(rows, row_size)
    cuts = data.draw(st.lists(st.integers(0, array.nbytes), unique=True).map(sorted))
    ends = [*(cut for cut in cuts if 0 < cut < array.nbytes), array.nbytes]
    assembler = Assembler(spec(array.shape), block_rows)
    blocks = []
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        assert not assembler.complete
        blocks += assembler.feed(begin, array.tobytes()[begin:end])
        # A block is there as soon as its last byte is.
        whole_blocks = end // (block_rows * array.strides[0])
        assert sum(len(block) for block in blocks) == (rows if end == array.nbytes else whole_blocks * block_rows)
    assert assembler.complete
    assert [len(block) for block in blocks[:-1]] == [block_rows] * (math.ceil(rows / block_rows) - 1)
    np.testing.assert_array_equal(np.concatenate(blocks).view("<i4"), array)


@pytest.mark.parametrize("dtype", [np.dtype("f2"), BFLOAT16], ids=str)
@pytest.mark.parametrize("chunk_nbytes", [1 << 20, 1 << 10])
def test_every_float_of_two_bytes_arrives_with_its_bits_nan_payloads_too(dtype, chunk_nbytes):
    array = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    [blocks] = receive(messages(b"", [("x", array)], chunk_nbytes))
    assert_received(blocks[0], array)


@pytest.mark.parametrize(
    ("dtype", "nans"), [("f4", [0x7F800001, 0xFFBFFFFF, 0x7FC0DEAD]), ("f8", [0x7FF0000000000001, (1 << 64) - 1])]
)
@pytest.mark.parametrize("order", "<>")
def test_quiet_and_signalling_nans_keep_sign_and_payload(dtype, nans, order):
    array = np.array(nans, f"{order}u{dtype[1]}").view(order + dtype)
    assert np.isnan(array).all()
    [blocks] = receive(messages(b"", [("x", array)]))
    assert_received(blocks[0], array)


@proof
@given(arrays())
def test_an_array_that_is_in_wire_order_already_is_not_copied(array):
    plain, _ = elements(array)
    in_wire_order = array.flags.c_contiguous and (array.dtype.itemsize == 1 or array.dtype.byteorder != ">")
    if array.size:
        assert np.shares_memory(plain, array) == in_wire_order
    assert raw(plain).nbytes == len(raw(plain)) == array.nbytes


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_subclasses_of_arrays_travel_as_the_plain_arrays_they_hold():
    for array in (np.matrix([[1.0, 2.0], [3.0, 4.0]]), np.ma.masked_array([1.0, 2.0], [False, True])):
        [blocks] = receive(messages(b"", [("x", array)], chunk_nbytes=8))
        assert_received(blocks[0], np.asarray(array))


def test_sending_leaves_the_array_as_it_was():
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    before = array.tobytes()
    receive(messages(b"", [("x", array)]))
    assert array.tobytes() == before
    assert array.dtype == ">f4"


def test_two_arrays_received_from_one_message_do_not_share_memory():
    header = Tensor(name="x", dtype=DTYPE_UINT8, shape=[3], nbytes=3, data=b"abc")
    one, two = (inline(header.data, spec_of(header, 0)) for _ in range(2))
    one[:] = 0
    assert two.tobytes() == header.data == b"abc"


# What is refused when sending.


@pytest.mark.parametrize("array", [
    np.array([object()]), np.array([1j]), np.array(["2020-01-01"], "M8[D]"), np.array([1], "u2"), np.array(["a"]),
    np.array([b"a"]), np.zeros(2, "f4,i4"),
], ids=lambda array: str(array.dtype))  # fmt: skip
def test_an_array_of_a_dtype_outside_the_contract_is_not_sent(array):
    assert str(array.dtype) in refused(ERROR_REASON_BAD_DTYPE, lambda: elements(array))


# What is refused when receiving: headers.


@pytest.mark.parametrize("dtype", [0, 11, -1, 2**31 - 1])
def test_a_header_with_an_unknown_dtype_is_refused(dtype):
    header = Tensor(name="x", dtype=dtype, shape=[2], nbytes=8)
    assert f"unknown dtype number {dtype};" in refused(ERROR_REASON_BAD_DTYPE, lambda: spec_of(header, 0))


@pytest.mark.parametrize("codec", [4, -1, 2**31 - 1])
def test_a_header_with_an_unknown_codec_is_refused(codec):
    header = Tensor(name="x", dtype=DTYPE_FLOAT32, shape=[2], nbytes=8, codec=codec)
    assert "send plain elements" in refused(ERROR_REASON_BAD_TENSOR, lambda: spec_of(header, 0))


@pytest.mark.parametrize("shape", [(-1,), (2, -3), (-2, -2), (0, -1), (-(2**63), 2)])
def test_a_header_with_a_negative_size_is_refused_even_where_the_product_is_not_negative(shape):
    nbytes = max(0, min(4 * math.prod(shape), 2**64 - 1))
    header = Tensor(name="x", dtype=DTYPE_FLOAT32, shape=shape, nbytes=nbytes)
    assert str(shape) in refused(ERROR_REASON_BAD_SHAPE, lambda: spec_of(header, 0))


def test_a_header_has_as_many_axes_as_every_numpy_takes_and_not_one_more():
    header = Tensor(name="x", dtype=DTYPE_UINT8, shape=[1] * MAX_AXES, nbytes=1, data=b"a")
    assert inline(header.data, spec_of(header, 0)).shape == (1,) * MAX_AXES
    header.shape.append(1)
    assert f"at most {MAX_AXES}" in refused(ERROR_REASON_BAD_SHAPE, lambda: spec_of(header, 0))


def test_a_header_of_very_many_large_sizes_is_refused():
    header = Tensor(name="x", dtype=DTYPE_UINT8, shape=[2**62] * 10_000)
    refused(ERROR_REASON_BAD_SHAPE, lambda: spec_of(header, 0))
    refused(ERROR_REASON_TOO_LARGE, lambda: spec_of(Tensor(dtype=DTYPE_UINT8, shape=[2**63 - 1] * MAX_AXES), 0))


@pytest.mark.parametrize("shape", [(2**62, 2**62), (0, 2**62, 2**62), (2**61,), (2**32, 2**32), (2**63 - 1,)])
@pytest.mark.parametrize("max_nbytes", [0, 1 << 20])
def test_a_header_with_sizes_that_no_memory_can_address_is_refused_even_without_a_limit(shape, max_nbytes):
    # What 64 bits are left with is what a careless product would agree with.
    header = Tensor(name="x", dtype=DTYPE_FLOAT32, shape=shape, nbytes=4 * math.prod(shape) % 2**64)
    assert "more bytes than can be addressed" in refused(ERROR_REASON_TOO_LARGE, lambda: spec_of(header, max_nbytes))


def test_a_header_over_the_limit_is_refused_and_one_at_the_limit_is_not():
    header = Tensor(name="x", dtype=DTYPE_FLOAT32, shape=[TERABYTES // 4], nbytes=TERABYTES)
    assert "max_tensor_bytes" in refused(ERROR_REASON_TOO_LARGE, lambda: spec_of(header, TERABYTES - 1))
    assert spec_of(header, TERABYTES).nbytes == TERABYTES


@proof
@given(SHAPES, st.integers(0, 2**64 - 1))
@example((), 0)
@example((0,), 1)
@example((2, 2), 4)
def test_a_byte_count_that_does_not_agree_with_shape_and_dtype_is_refused(shape, nbytes):
    header = Tensor(name="x", dtype=DTYPE_FLOAT64, shape=shape, nbytes=nbytes)
    if nbytes == 8 * math.prod(shape):
        assert spec_of(header, 0).nbytes == nbytes
    else:
        with pytest.raises(WireError, match=f"announces {nbytes} bytes") as error:
            spec_of(header, 0)
        assert error.value.reason == ERROR_REASON_BAD_TENSOR


@proof
@given(
    st.integers(-1, 12),
    st.lists(st.integers(-1, 4) | st.integers(-(2**63), 2**63 - 1), max_size=MAX_AXES + 1),
    st.integers(0, 4) | st.none(),
    st.integers(0, 2**64 - 1) | st.none(),
)
def test_any_header_is_refused_or_can_be_held_in_memory(dtype, shape, codec, nbytes):
    limit_nbytes = 1 << 16
    if nbytes is None:
        nbytes = math.prod(shape) * 4 % 2**64
    header = Tensor(name="x", dtype=dtype, shape=shape, nbytes=nbytes, codec=codec or 0)
    try:
        checked = spec_of(header, limit_nbytes)
    except WireError:
        return
    assert checked.wire_nbytes == nbytes
    assert nbytes <= checked.nbytes <= limit_nbytes
    if checked.nbytes:
        assembler = Assembler(checked)
        [array] = assembler.feed(0, bytes(nbytes))
        assert assembler.complete
    else:
        array = inline(header.data, checked)
    assert array.shape == tuple(shape)
    assert array.nbytes == checked.nbytes


@proof
@given(SHAPES, st.binary(max_size=64))
def test_bytes_that_come_with_a_header_are_all_of_them(shape, data):
    header = Tensor(name="x", dtype=DTYPE_BOOL, shape=shape, nbytes=math.prod(shape), data=data)
    checked = spec_of(header, 0)
    if len(data) == checked.nbytes:
        assert inline(header.data, checked).shape == shape
    else:
        with pytest.raises(WireError, match=f"carries {len(data)} bytes") as error:
            inline(header.data, checked)
        assert error.value.reason == ERROR_REASON_BAD_TENSOR


def test_a_header_announcing_terabytes_with_a_few_bytes_of_data_takes_no_memory():
    header = Tensor(name="x", dtype=DTYPE_UINT8, shape=[TERABYTES], nbytes=TERABYTES, data=b"abc")
    refused(ERROR_REASON_BAD_TENSOR, lambda: inline(header.data, spec_of(header, 0)))


# What is refused when receiving: chunks.


@pytest.mark.parametrize(
    ("offset", "nbytes", "text"),
    [
        (0, 4, "begins at byte 0; expected 8"),
        (4, 4, "begins at byte 4; expected 8"),
        (9, 4, "begins at byte 9; expected 8"),
        (2**64 - 1, 4, "expected 8"),
        (-1, 4, "expected 8"),
        (8, 0, "empty chunk"),
        (8, 17, "ends at byte 25; the tensor has 24"),
    ],
    ids=["again", "overlap", "gap", "far gap", "negative", "empty", "overrun"],
)
@pytest.mark.parametrize("block_rows", [None, 1, 2])
def test_a_chunk_out_of_place_is_refused_and_changes_nothing(offset, nbytes, text, block_rows):
    array = np.arange(6, dtype="<f4").reshape(3, 2)
    assembler = Assembler(spec((3, 2)), block_rows)
    blocks = list(assembler.feed(0, array.tobytes()[:8]))
    assert text in refused(ERROR_REASON_BAD_FRAME, lambda: assembler.feed(offset, b"?" * nbytes))
    assert not assembler.complete
    blocks += assembler.feed(8, array.tobytes()[8:])
    assert assembler.complete
    np.testing.assert_array_equal(np.concatenate(blocks), array)


@proof
@given(
    SHAPES,
    st.none() | st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["next", "wrong"]), st.integers(-3, 30), st.integers(0, 60)), max_size=30),
)
def test_of_any_sequence_of_chunks_only_those_without_gap_overlap_and_overrun_are_taken(shape, block_rows, attempts):
    data = bytes(i % 251 for i in range(math.prod(shape)))
    assembler = Assembler(spec(shape, DTYPE_UINT8, 1), block_rows)
    at, received = 0, b""
    for kind, where, size in attempts:
        offset = at if kind == "next" else where
        if offset == at and 0 < size <= len(data) - at:
            received += b"".join(block.tobytes() for block in assembler.feed(offset, data[at : at + size]))
            at += size
        else:
            with pytest.raises(WireError) as error:
                assembler.feed(offset, b"?" * size)
            assert error.value.reason == ERROR_REASON_BAD_FRAME
        assert assembler.complete == (at == len(data))
        assert data.startswith(received)
    assert assembler.complete == (received == data)


def test_nothing_follows_the_last_byte():
    assembler = Assembler(spec((2,)))
    list(assembler.feed(0, bytes(8)))
    assert assembler.complete
    refused(ERROR_REASON_BAD_FRAME, lambda: assembler.feed(8, b"a"))


def test_an_array_without_elements_is_complete_before_any_chunk_and_takes_none():
    assembler = Assembler(spec((3, 0)), block_rows=2)
    assert assembler.complete
    refused(ERROR_REASON_BAD_FRAME, lambda: assembler.feed(0, b"a"))
    refused(ERROR_REASON_BAD_FRAME, lambda: assembler.feed(0, b""))


@pytest.mark.parametrize("block_rows", [None, 3])
def test_a_tensor_that_is_cut_short_is_never_complete(block_rows):
    assembler = Assembler(spec((3,)), block_rows)
    assert list(assembler.feed(0, bytes(11))) == []
    assert not assembler.complete


def test_an_announcement_of_terabytes_takes_no_memory_until_its_chunks_are_right():
    refused(ERROR_REASON_BAD_FRAME, lambda: Assembler(spec((TERABYTES // 4,))).feed(1, b"abc"))
    refused(ERROR_REASON_BAD_FRAME, lambda: Assembler(spec((TERABYTES // 4,))).feed(0, b""))
    refused(ERROR_REASON_BAD_FRAME, lambda: Assembler(spec((TERABYTES // 4,)), 1).feed(TERABYTES, b"a"))


def test_memory_is_taken_for_one_block_at_a_time():
    assembler = Assembler(spec((TERABYTES // 4096, 1024)), block_rows=4)
    tracemalloc.start()
    try:
        for offset in range(0, 1 << 20, 4096):
            for block in assembler.feed(offset, bytes(4096)):
                assert block.shape == (4, 1024)
        peak_nbytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_nbytes < 1 << 17


# What the caller may not ask for.


@pytest.mark.parametrize("block_rows", [0, -1])
def test_blocks_have_at_least_one_row(block_rows):
    with pytest.raises(ValueError, match=f"block_rows is {block_rows}"):
        Assembler(spec((3, 2)), block_rows)


@pytest.mark.parametrize(
    "into",
    [
        np.empty((2, 3), "<f4"),
        np.empty((3, 2), "<f8"),
        np.empty((3, 2), ">f4"),
        np.empty((2, 3), "<f4").T,
        np.empty((6, 2), "<f4")[::2],
        np.frombuffer(bytes(24), "<f4").reshape(3, 2),
    ],
    ids=["shape", "dtype", "byte order", "Fortran", "strided", "read-only"],
)
def test_memory_that_cannot_hold_the_tensor_as_it_comes_is_not_taken(into):
    with pytest.raises(ValueError, match=r"expected \(3, 2\) of float32, writable, in C order"):
        Assembler(spec((3, 2)), into=into)


def test_a_numpy_scalar_is_no_memory():
    with pytest.raises(ValueError, match="writable"):
        Assembler(spec(()), into=np.float32(0))


def test_memory_for_the_whole_tensor_is_not_filled_in_blocks():
    with pytest.raises(ValueError, match="None with into"):
        Assembler(spec((3, 2)), 1, np.empty((3, 2), "<f4"))


@proof
@given(SHAPES)
def test_the_rows_of_a_spec_make_up_its_bytes(shape):
    checked = spec(shape)
    assert checked.row_nbytes * (shape[0] if shape else 1) == checked.nbytes
