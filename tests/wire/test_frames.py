"""Messages framed by hand are the bytes that protobuf writes, and chunks read by hand are what protobuf reads."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradwire.v1 import estimator_pb2
from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_DTYPE
from gradwire.v1.estimator_pb2 import CallHeader, FitRequest, FitResponse, PredictRequest
from gradwire.v1.tensor_pb2 import DTYPE_FLOAT32, Dtype, Tensor, TensorChunk
from gradwire.wire.errors import WireError
from gradwire.wire.frames import CHUNK_NBYTES, chunk_messages, chunk_of, delimited, header_message, messages, open_field, varint

METHODS = estimator_pb2.DESCRIPTOR.services_by_name["EstimatorService"].methods
REQUESTS = [GetMessageClass(method.input_type) for method in METHODS]
ROW_RESPONSES = [GetMessageClass(method.output_type) for method in METHODS if method.name != "Fit"]

# A loaded machine is no failure.
proof = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAMES = st.text(st.characters(codec="utf-8"), max_size=8) | st.integers(100, 300).map("x".__mul__)
OPENINGS = st.builds(CallHeader, model=NAMES, request_id=NAMES, timeout_s=st.sampled_from([0.0, 1.5]), traceparent=NAMES)
ARRAYS = hnp.arrays(
    st.sampled_from(["?", "i1", "i8", "f2", "f4"]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6)
)
CALLS = st.lists(st.tuples(NAMES, ARRAYS), max_size=3)
OFFSETS = st.integers(0, 300) | st.integers(0, 2**64 - 1)
DATA = st.binary(min_size=1, max_size=300)


def by_name(message):
    return message.DESCRIPTOR.name


def header(name, array, data=b""):
    return Tensor(name=name, dtype="DTYPE_" + array.dtype.name.upper(), shape=array.shape, nbytes=array.nbytes, data=data)


def written_by_protobuf(message, arrays, chunk_nbytes, **opening):
    """A call as the messages that the contract describes, all of them serialised by the protobuf runtime."""
    tensors, chunks = [], []
    room = chunk_nbytes
    for name, array in arrays:
        data = array.tobytes()
        if len(data) <= room:
            room -= len(data)
            tensors.append(header(name, array, data))
        else:
            tensors.append(header(name, array))
            chunks += [TensorChunk(offset=at, data=data[at : at + chunk_nbytes]) for at in range(0, len(data), chunk_nbytes)]
    parts = [message(tensors=tensors, **opening), *(message(chunk=chunk) for chunk in chunks)]
    return [part.SerializeToString() for part in parts]


def read_by_protobuf(data):
    """Offset and data of a message that is one chunk with known fields only; None for any other."""
    try:
        message = PredictRequest.FromString(data)
    except DecodeError:
        return None
    if [field.name for field, _ in message.ListFields()] != ["chunk"]:
        return None
    if len(UnknownFieldSet(message)) or len(UnknownFieldSet(message.chunk)):
        return None
    return message.chunk.offset, message.chunk.data


def read_by_hand(data):
    chunk = chunk_of(data)
    return chunk and (chunk[0], bytes(chunk[1]))


def uncanonical(value):
    """A varint with more bytes than it needs."""
    head, last = varint(value)[:-1], varint(value)[-1]
    return head + bytes((last | 0x80, 0))


# Field numbers.


def test_the_service_has_seven_operations_of_which_six_answer_with_rows():
    assert len(REQUESTS) == 7
    assert len(ROW_RESPONSES) == 6


@pytest.mark.parametrize("message", REQUESTS + ROW_RESPONSES, ids=by_name)
def test_requests_and_row_responses_share_their_field_numbers(message):
    numbers = {field.name: field.number for field in message.DESCRIPTOR.fields}
    assert numbers.get("open") == (1 if message in REQUESTS else None)
    assert numbers["tensors"] == 2
    assert numbers["chunk"] == 3
    fields = message.DESCRIPTOR.fields_by_name
    assert fields["tensors"].message_type is Tensor.DESCRIPTOR
    assert fields["chunk"].message_type is TensorChunk.DESCRIPTOR


def test_progress_stands_where_requests_have_open():
    assert FitResponse.PROGRESS_FIELD_NUMBER == 1


def test_data_is_the_highest_field_of_the_messages_that_hold_it():
    for message in (Tensor, TensorChunk):
        assert max(message.DESCRIPTOR.fields_by_number) == message.DATA_FIELD_NUMBER == 15


# Writing.


@pytest.mark.parametrize("message", REQUESTS, ids=by_name)
@proof
@given(OPENINGS, CALLS, st.integers(1, 400))
def test_a_request_is_byte_for_byte_what_protobuf_writes(message, call, arrays, chunk_nbytes):
    opening = message().open
    opening.call.CopyFrom(call)
    written = list(messages(open_field(opening.SerializeToString()), arrays, chunk_nbytes))
    assert written == written_by_protobuf(message, arrays, chunk_nbytes, open=opening)


@pytest.mark.parametrize("message", ROW_RESPONSES, ids=by_name)
@proof
@given(CALLS, st.integers(1, 400))
def test_a_row_response_is_byte_for_byte_what_protobuf_writes(message, arrays, chunk_nbytes):
    assert list(messages(b"", arrays, chunk_nbytes)) == written_by_protobuf(message, arrays, chunk_nbytes)


@pytest.mark.parametrize("message", REQUESTS, ids=by_name)
def test_an_empty_open_is_written_so_that_it_is_there(message):
    assert next(messages(open_field(b""), [])) == message(open=type(message().open)()).SerializeToString()


@proof
@given(NAMES, ARRAYS)
def test_a_header_message_is_byte_for_byte_what_protobuf_writes(name, array):
    value = Dtype.Value("DTYPE_" + array.dtype.name.upper())
    for message in REQUESTS + ROW_RESPONSES:
        written = header_message(name, value, array.shape, array.nbytes)
        assert written == message(tensors=[header(name, array)]).SerializeToString()


@proof
@given(DATA, st.integers(0, 2**63), st.integers(1, 100))
def test_chunk_messages_count_their_offsets_from_where_the_data_stands_in_its_tensor(data, begin, chunk_nbytes):
    written = list(chunk_messages(memoryview(data), begin, chunk_nbytes))
    parts = [TensorChunk(offset=begin + at, data=data[at : at + chunk_nbytes]) for at in range(0, len(data), chunk_nbytes)]
    for message in REQUESTS + ROW_RESPONSES:
        assert written == [message(chunk=part).SerializeToString() for part in parts]


@proof
@given(st.integers(1, 2**64 - 1))
@example(127)
@example(128)
@example(2**64 - 1)
def test_a_varint_is_what_protobuf_writes(value):
    assert Tensor(nbytes=value).SerializeToString() == b"\x20" + varint(value)


@pytest.mark.parametrize("nbytes", [CHUNK_NBYTES - 1, CHUNK_NBYTES, CHUNK_NBYTES + 1, 2 * CHUNK_NBYTES])
def test_a_call_within_a_mebibyte_is_one_message_and_a_larger_one_chunks_of_that(nbytes):
    arrays = [("x", np.zeros(nbytes, "u1"))]
    written = list(messages(b"", arrays))
    assert written == written_by_protobuf(PredictRequest, arrays, CHUNK_NBYTES)
    chunk_sizes = [len(chunk_of(message)[1]) for message in written[1:]]
    whole, rest = divmod(nbytes, CHUNK_NBYTES)
    assert chunk_sizes == ([] if nbytes <= CHUNK_NBYTES else [CHUNK_NBYTES] * whole + [rest] * bool(rest))


@proof
@given(CALLS, st.integers(1, 400))
def test_no_message_holds_more_data_than_allowed(arrays, chunk_nbytes):
    for written in messages(b"", arrays, chunk_nbytes):
        message = PredictRequest.FromString(written)
        assert sum(len(tensor.data) for tensor in message.tensors) + len(message.chunk.data) <= chunk_nbytes


def test_nothing_is_sent_of_a_call_with_an_array_that_cannot_be_sent():
    with pytest.raises(WireError) as error:
        messages(b"", [("y", np.zeros(3)), ("x", np.array([object()]))])
    assert error.value.reason == ERROR_REASON_BAD_DTYPE


# Reading.


@proof
@given(OFFSETS, DATA)
@example(2**64 - 1, b"a")
def test_a_chunk_message_that_protobuf_wrote_is_read_without_a_copy(offset, data):
    for message in REQUESTS + ROW_RESPONSES:
        written = message(chunk=TensorChunk(offset=offset, data=data)).SerializeToString()
        assert read_by_hand(written) == (offset, data)
        assert chunk_of(written)[1].obj is written


@pytest.mark.parametrize("offset", [0, 5])
def test_an_empty_chunk_is_left_to_protobuf(offset):
    assert chunk_of(PredictRequest(chunk=TensorChunk(offset=offset)).SerializeToString()) is None


@proof
@given(OFFSETS, DATA)
def test_a_chunk_message_cut_short_is_not_read(offset, data):
    written = PredictRequest(chunk=TensorChunk(offset=offset, data=data)).SerializeToString()
    for end in range(len(written)):
        assert chunk_of(written[:end]) is None


@proof
@given(OFFSETS, DATA, st.binary(min_size=1, max_size=12))
def test_a_chunk_message_with_bytes_behind_it_is_not_read(offset, data, more):
    assert chunk_of(PredictRequest(chunk=TensorChunk(offset=offset, data=data)).SerializeToString() + more) is None


OFFSET, PAYLOAD, UNKNOWN = b"\x08\x05", b"\x7a\x03abc", b"\x10\x07"
CHUNK = delimited(b"\x1a", OFFSET + PAYLOAD)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x1a",
        delimited(b"\x1a", PAYLOAD + OFFSET),
        delimited(b"\x1a", OFFSET + PAYLOAD + PAYLOAD),
        delimited(b"\x1a", OFFSET + OFFSET + PAYLOAD),
        delimited(b"\x1a", UNKNOWN + OFFSET + PAYLOAD),
        delimited(b"\x1a", OFFSET + UNKNOWN + PAYLOAD),
        delimited(b"\x1a", OFFSET + PAYLOAD + UNKNOWN),
        UNKNOWN + CHUNK,
        CHUNK + UNKNOWN,
        CHUNK + CHUNK,
        FitRequest(chunk=TensorChunk(offset=5, data=b"abc"), end=True).SerializeToString(),
        PredictRequest(tensors=[Tensor(dtype=DTYPE_FLOAT32)], chunk=TensorChunk(data=b"abc")).SerializeToString(),
        PredictRequest(open={}, chunk=TensorChunk(data=b"abc")).SerializeToString(),
        PredictRequest(open={}).SerializeToString(),
        # Offsets and lengths that never end, or of more than 64 bits, which protobuf cuts to 64.
        delimited(b"\x1a", b"\x08" + b"\xff" * 10 + PAYLOAD),
        delimited(b"\x1a", b"\x08" + b"\xff" * 9 + b"\x02" + PAYLOAD),
        b"\x1a" + b"\xff" * 20,
        b"\x1a" + b"\x80" * 9 + b"\x7f" + OFFSET + PAYLOAD,
        # A length that points back before its own field.
        b"\x1a\x02\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ],
    ids=repr,
)
def test_a_message_that_is_anything_but_one_plain_chunk_is_left_to_protobuf(message):
    assert chunk_of(message) is None


@proof
@given(OFFSETS, DATA)
def test_numbers_written_longer_than_needed_are_read_as_protobuf_reads_them(offset, data):
    fields = b"\x08" + uncanonical(min(offset, 2**63 - 1)) + b"\x7a" + uncanonical(len(data)) + data
    message = b"\x1a" + uncanonical(len(fields)) + fields
    assert read_by_protobuf(message) == (min(offset, 2**63 - 1), data)
    assert read_by_hand(message) in (None, read_by_protobuf(message))


@proof
@given(
    st.binary(max_size=40)
    | st.binary(max_size=40).map(b"\x1a".__add__)
    | st.binary(max_size=40).map(lambda b: delimited(b"\x1a", b))
)
def test_of_any_bytes_nothing_is_read_that_protobuf_would_not_read(message):
    assert read_by_hand(message) in (None, read_by_protobuf(message))


@settings(proof, max_examples=400)
@given(OFFSETS, st.binary(min_size=1, max_size=140), st.data())
def test_of_a_chunk_message_with_some_bytes_changed_nothing_is_read_that_protobuf_would_not_read(offset, data, draw):
    message = bytearray(PredictRequest(chunk=TensorChunk(offset=offset, data=data)).SerializeToString())
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, min(len(message) - 1, 16)))
        message[at : at + draw.draw(st.integers(0, 1))] = draw.draw(st.binary(max_size=2))
    assert read_by_hand(bytes(message)) in (None, read_by_protobuf(bytes(message)))
