"""Messages of the estimator streams, written by hand so that array bytes are not copied twice.

The bytes equal those of a protobuf library, without the copies that it would make. Messages from any protobuf library can be
read.

The seven requests share their field numbers, and so do the responses: 1 ``open`` (or ``progress``), 2 ``tensors``,
3 ``chunk``. A test holds this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gradwire.v1.tensor_pb2 import CODEC_UNSPECIFIED, Codec, Dtype
from gradwire.wire.tensors import Array, Outgoing, header_bytes, outgoing

CHUNK_NBYTES = 1 << 20
"""Most bytes of data in one message: below, one message is faster than chunks; as chunks, this size is the fastest."""

_TENSORS = b"\x12"  # field 2, length-delimited
_CHUNK = b"\x1a"  # field 3, length-delimited
_OFFSET = 0x08  # field 1 of TensorChunk, varint
_DATA = b"\x7a"  # field 15 of Tensor and TensorChunk, length-delimited


class Chunk(NamedTuple):
    """A chunk of a tensor without a message around it.

    Attributes:
        offset: Offset of its first byte in the tensor.
        data: Its bytes; valid until the next message is read.
    """

    offset: int
    data: memoryview


def varint(value: int) -> bytes:
    """Encodes a non-negative integer as a protobuf varint."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(tag: bytes, payload: bytes) -> bytes:
    """Encodes a length-delimited field."""
    return tag + varint(len(payload)) + payload


def open_field(payload: bytes) -> bytes:
    """Encodes the field ``open`` of a request, from its serialised message."""
    return delimited(b"\x0a", payload)


def messages(opening: bytes, arrays: Sequence[tuple[str, Array | Outgoing]], chunk_nbytes: int = CHUNK_NBYTES) -> Iterator[bytes]:
    """Yields the messages of a call or an answer: one if all data is within ``chunk_nbytes``, else one and chunks.

    As `first_message`, whose arguments and errors these are; nothing has been yielded when it raises.
    """
    return in_messages(*first_message(opening, arrays, chunk_nbytes), chunk_nbytes)


def first_message(
    opening: bytes, arrays: Sequence[tuple[str, Array | Outgoing]], inline_nbytes: int = CHUNK_NBYTES
) -> tuple[bytes, list[memoryview]]:
    """Makes the first message of a call or an answer, and returns the tensors' data that did not fit.

    Args:
        opening: Serialised fields to begin the message with; `open_field` for requests.
        arrays: Names and arrays, plain or made ready, in the contract's order. The data of small ones goes into the first
            message while there is room.
        inline_nbytes: Most data in it.

    Raises:
        WireError: An array cannot be sent.
    """
    parts: list[bytes | memoryview] = [opening]
    chunked: list[memoryview] = []
    room = inline_nbytes
    for name, array in arrays:
        value, shape, codec, data = array if isinstance(array, Outgoing) else outgoing(array)
        nbytes = len(data)
        header = header_bytes(name, value, shape, nbytes, codec)
        if 0 < nbytes <= room:
            room -= nbytes
            length = varint(nbytes)
            parts += (_TENSORS, varint(len(header) + 1 + len(length) + nbytes), header, _DATA, length, data)
        else:
            parts += (_TENSORS, varint(len(header)), header)
            if nbytes:
                chunked.append(data)
    return b"".join(parts), chunked


def in_messages(first: bytes, chunked: Sequence[memoryview], chunk_nbytes: int = CHUNK_NBYTES) -> Iterator[bytes]:
    """Yields the first message and the rest of its data as chunk messages, from the result of `first_message`."""
    yield first
    for data in chunked:
        yield from chunk_messages(data, 0, chunk_nbytes)


def header_message(name: str, value: Dtype, shape: tuple[int, ...], nbytes: int, codec: Codec = CODEC_UNSPECIFIED) -> bytes:
    """Makes a message with the header of one tensor, whose bytes follow in chunks."""
    return delimited(_TENSORS, header_bytes(name, value, shape, nbytes, codec))


def chunk_messages(data: memoryview, begin: int = 0, chunk_nbytes: int = CHUNK_NBYTES) -> Iterator[bytes]:
    """Yields chunk messages of ``data``, which begins at byte ``begin`` of its tensor."""
    for at in range(0, len(data), chunk_nbytes):
        part = data[at : at + chunk_nbytes]
        yield b"".join((chunk_header(begin + at, len(part)), part))


def chunk_header(offset: int, nbytes: int) -> bytes:
    """Makes the bytes of a chunk message before the chunk's data."""
    fields = (bytes((_OFFSET,)) + varint(offset) if offset else b"") + _DATA + varint(nbytes)
    return _CHUNK + varint(len(fields) + nbytes) + fields


def chunk_of(message: bytes | memoryview | Chunk) -> Chunk | None:
    """Reads the chunk of a message that holds nothing else, without a copy; None for any other message.

    None also for fields in another order, unknown fields or a broken message, which the protobuf library reads.
    """
    if isinstance(message, Chunk):
        return message
    if message[:1] != _CHUNK:
        return None
    view = memoryview(message)
    length, at = _varint_at(message, 1)
    if at + length != len(message):
        return None
    offset = 0
    if at < len(message) and message[at] == _OFFSET:
        offset, at = _varint_at(message, at + 1)
    if message[at : at + 1] != _DATA:
        return None
    length, at = _varint_at(message, at + 1)
    return Chunk(offset, view[at:]) if at + length == len(message) else None


def _varint_at(message: bytes | memoryview, at: int) -> tuple[int, int]:
    """Reads a varint and the index behind it; (-1, at) without one, or beyond 64 bits."""
    value = shift = 0
    for index in range(at, min(at + 10, len(message))):
        byte = message[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value, index + 1) if value < 1 << 64 else (-1, at)
        shift += 7
    return -1, at
