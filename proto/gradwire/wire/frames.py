"""Messages of the estimator streams, framed by hand around bytes that are not copied twice.

What is written here is protobuf, byte for byte what a protobuf library would write; only the copies that it would make
on the way are missing. What is read may come from any protobuf library.

The seven requests share their field numbers, and so do the responses: 1 ``open`` (or ``progress``), 2 ``tensors``,
3 ``chunk``. A test holds this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gradwire.v1.tensor_pb2 import CODEC_UNSPECIFIED, Codec, Dtype
from gradwire.wire.tensors import Array, Outgoing, header_bytes, outgoing

CHUNK_NBYTES = 1 << 20
"""Bytes of data in one message: up to here one message beats chunks, and as chunks these beat smaller and larger ones."""

_TENSORS = b"\x12"  # field 2, length-delimited
_CHUNK = b"\x1a"  # field 3, length-delimited
_OFFSET = 0x08  # field 1 of TensorChunk, varint
_DATA = b"\x7a"  # field 15 of Tensor and TensorChunk, length-delimited


class Chunk(NamedTuple):
    """A chunk that came without a message around it.

    Attributes:
        offset: Of its first byte in its tensor.
        data: Its bytes; to be read before the next message is.
    """

    offset: int
    data: memoryview


def varint(value: int) -> bytes:
    """A non-negative integer as protobuf writes it."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(tag: bytes, payload: bytes) -> bytes:
    """A length-delimited field."""
    return tag + varint(len(payload)) + payload


def open_field(payload: bytes) -> bytes:
    """The field ``open`` of a request, from the serialised message that it holds."""
    return delimited(b"\x0a", payload)


def messages(opening: bytes, arrays: Sequence[tuple[str, Array | Outgoing]], chunk_nbytes: int = CHUNK_NBYTES) -> Iterator[bytes]:
    """A call, or its answer, as messages: one if all data is within ``chunk_nbytes``, else one and chunks.

    As `first_message`, whose arguments and errors these are; nothing has been yielded when it raises.
    """
    return in_messages(*first_message(opening, arrays, chunk_nbytes), chunk_nbytes)


def first_message(
    opening: bytes, arrays: Sequence[tuple[str, Array | Outgoing]], inline_nbytes: int = CHUNK_NBYTES
) -> tuple[bytes, list[memoryview]]:
    """The message that a call, or its answer, begins with, and the data that did not fit, a tensor each.

    Args:
        opening: Serialised fields to begin the message with; `open_field` for requests.
        arrays: Names and arrays, plain or made ready, in the order that the contract wants. The data of small ones travels
            in the first message as long as there is room.
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
    """What `first_message` returned, with the data in messages too."""
    yield first
    for data in chunked:
        yield from chunk_messages(data, 0, chunk_nbytes)


def header_message(name: str, value: Dtype, shape: tuple[int, ...], nbytes: int, codec: Codec = CODEC_UNSPECIFIED) -> bytes:
    """A message with the header of one tensor whose bytes will follow in chunks."""
    return delimited(_TENSORS, header_bytes(name, value, shape, nbytes, codec))


def chunk_messages(data: memoryview, begin: int = 0, chunk_nbytes: int = CHUNK_NBYTES) -> Iterator[bytes]:
    """Messages of one chunk each for ``data``, which stands at byte ``begin`` of its tensor."""
    for at in range(0, len(data), chunk_nbytes):
        part = data[at : at + chunk_nbytes]
        yield b"".join((chunk_header(begin + at, len(part)), part))


def chunk_header(offset: int, nbytes: int) -> bytes:
    """What a message of one chunk has before the chunk's data."""
    fields = (bytes((_OFFSET,)) + varint(offset) if offset else b"") + _DATA + varint(nbytes)
    return _CHUNK + varint(len(fields) + nbytes) + fields


def chunk_of(message: bytes | memoryview | Chunk) -> Chunk | None:
    """The chunk of a message that holds nothing else, without copying the data; None for any other message.

    Fields in another order, unknown ones or a broken message are left to the protobuf library: None.
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
    """A varint and the index behind it; (-1, at) if there is none, or one of more than 64 bits."""
    value = shift = 0
    for index in range(at, min(at + 10, len(message))):
        byte = message[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value, index + 1) if value < 1 << 64 else (-1, at)
        shift += 7
    return -1, at
