"""Arrays as headers and bytes. A header is checked completely before memory is allocated for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradwire.v1.errors_pb2 import (
    ERROR_REASON_BAD_DTYPE,
    ERROR_REASON_BAD_FRAME,
    ERROR_REASON_BAD_SHAPE,
    ERROR_REASON_BAD_TENSOR,
    ERROR_REASON_TOO_LARGE,
)
from gradwire.v1.tensor_pb2 import CODEC_UNSPECIFIED, DTYPE_BFLOAT16, Codec, Dtype, Tensor
from gradwire.wire.codecs import CODINGS, decode, encode, name_of, rows_and_elements
from gradwire.wire.dtypes import to_numpy, travelling, widened
from gradwire.wire.errors import WireError

Array: TypeAlias = NDArray[Any]

MAX_AXES = 32
"""Most axes of an array, as in numpy 1."""

MAX_NAME = 64
"""Most characters of a tensor's name."""

_MAX_ADDRESSABLE = int(np.iinfo(np.intp).max)

_STAGE_NBYTES = 256 << 10
"""Encoded bytes gathered before they are decoded, unless a row is larger."""


class TensorSpec(NamedTuple):
    """A checked header. ``nbytes`` agrees with ``shape`` and ``dtype``.

    Attributes:
        name: The array's role, such as "x".
        dtype: Dtype of its elements in memory.
        value: The same as the contract's enum value.
        shape: Sizes of the axes, none negative; empty for a scalar.
        nbytes: Total bytes in memory.
        codec: Codec of the bytes on the wire.
        wire_nbytes: Total bytes on the wire; at most ``nbytes``.
    """

    name: str
    dtype: np.dtype[Any]
    value: Dtype
    shape: tuple[int, ...]
    nbytes: int
    codec: Codec
    wire_nbytes: int

    @property
    def row_nbytes(self) -> int:
        """Bytes in memory of one entry along the first axis, or of a scalar."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def specs_of(headers: Iterable[Tensor], max_nbytes: int) -> list[TensorSpec]:
    """Checks the headers of several tensors, each as `spec_of` does."""
    return [spec_of(header, max_nbytes) for header in headers]


def spec_of(header: Tensor, max_nbytes: int, limit: str = "max_tensor_bytes") -> TensorSpec:
    """Checks a tensor's header.

    Args:
        header: The received header.
        max_nbytes: Most bytes in memory, whatever the codec; 0: no limit.
        limit: The limit's name, for error texts.

    Raises:
        WireError: The dtype or the codec is unknown, or they do not fit together; sizes are negative, too many or not
            addressable; the bytes do not match the sizes, or exceed the limit.
    """
    if len(header.name) > MAX_NAME:
        # Error texts quote names and are sent in metadata, which is small.
        raise WireError(ERROR_REASON_BAD_TENSOR, f"a tensor's name has {len(header.name)} characters; expected at most {MAX_NAME}")
    dtype = to_numpy(header.dtype)
    shape = tuple(header.shape)
    _check_codec(header)
    if len(shape) > MAX_AXES:
        raise WireError(ERROR_REASON_BAD_SHAPE, f"tensor {header.name!r} has {len(shape)} axes; expected at most {MAX_AXES}")
    if shape and min(shape) < 0:
        raise WireError(ERROR_REASON_BAD_SHAPE, f"tensor {header.name!r} has shape {shape}; sizes must not be negative")
    # numpy ignores sizes of 0 when it checks whether a shape can be addressed.
    if math.prod(size or 1 for size in shape) * dtype.itemsize > _MAX_ADDRESSABLE:
        raise WireError(
            ERROR_REASON_TOO_LARGE,
            f"tensor {header.name!r} has shape {shape} of {dtype}, more bytes than can be addressed; send fewer rows at once",
        )
    nbytes = math.prod(shape) * dtype.itemsize
    wire_nbytes, encoded = nbytes, ""
    if header.codec:
        rows, elements_a_row = rows_and_elements(shape)
        wire_nbytes, encoded = rows * CODINGS[header.codec].row_nbytes(elements_a_row), f" in codec {name_of(header.codec)}"
    if header.nbytes != wire_nbytes:
        raise WireError(
            ERROR_REASON_BAD_TENSOR,
            f"tensor {header.name!r} announces {header.nbytes} bytes; shape {shape} of {dtype}{encoded} has {wire_nbytes}",
        )
    if max_nbytes and nbytes > max_nbytes:
        raise WireError(
            ERROR_REASON_TOO_LARGE,
            f"tensor {header.name!r} with shape {shape} of {dtype} has {nbytes} bytes; the limit {limit} is {max_nbytes}",
        )
    return TensorSpec(header.name, dtype, header.dtype, shape, nbytes, header.codec, wire_nbytes)


def _check_codec(header: Tensor) -> None:
    if header.codec == CODEC_UNSPECIFIED:
        return
    if header.codec not in CODINGS:
        raise WireError(
            ERROR_REASON_BAD_TENSOR,
            f"tensor {header.name!r} has the unknown codec {name_of(header.codec)}; send plain elements, "
            f"or one of: {', '.join(map(name_of, CODINGS))}",
        )
    if header.dtype not in CODINGS[header.codec].dtypes:
        takes = ", ".join(str(to_numpy(value)) for value in sorted(CODINGS[header.codec].dtypes))
        raise WireError(
            ERROR_REASON_BAD_DTYPE,
            f"tensor {header.name!r} of {to_numpy(header.dtype)} has codec {name_of(header.codec)}, which applies to {takes}; "
            "send plain elements",
        )


def elements(array: Array) -> tuple[Array, Dtype]:
    """Returns the array in C order and little-endian, copied only if needed, and the contract's value of its dtype.

    A subclass becomes a plain array: `np.matrix` would never become the single axis that `raw` reads.

    Raises:
        WireError: The dtype is not in the contract; object arrays never are.
    """
    value, dtype = travelling(array.dtype)
    return np.asarray(array, dtype, order="C"), value


def raw(array: Array) -> memoryview:
    """Returns the bytes of an array from `elements`, without a copy."""
    return array.reshape(-1).view(np.uint8).data


class Outgoing(NamedTuple):
    """An array made ready to send.

    Attributes:
        value: The contract's value of its dtype.
        shape: The array's shape.
        codec: Codec of the bytes.
        data: All bytes to send.
    """

    value: Dtype
    shape: tuple[int, ...]
    codec: Codec
    data: memoryview


def outgoing(array: Array, codec: Codec = CODEC_UNSPECIFIED) -> Outgoing:
    """Makes an array ready to send, encoded if the codec applies to its dtype. Raises WireError as `elements`."""
    array, value = elements(array)
    if codec and value in CODINGS[codec].dtypes:
        return Outgoing(value, array.shape, codec, encode(array, codec).data)
    return Outgoing(value, array.shape, CODEC_UNSPECIFIED, raw(array))


def all_outgoing(arrays: Sequence[tuple[str, Array | Outgoing]]) -> list[tuple[str, Outgoing]]:
    """Makes named arrays ready to send; ready ones stay as they are. Raises WireError as `elements`."""
    return [(name, array if isinstance(array, Outgoing) else outgoing(array)) for name, array in arrays]


@lru_cache(maxsize=1024)
def header_bytes(name: str, value: Dtype, shape: tuple[int, ...], nbytes: int, codec: Codec = CODEC_UNSPECIFIED) -> bytes:
    """Serialises a header without data; cached, because attacks send the same few headers thousands of times."""
    return Tensor(name=name, dtype=value, shape=shape, nbytes=nbytes, codec=codec).SerializeToString()


def inline(data: bytes, spec: TensorSpec) -> Array:
    """Reads the array of a tensor whose bytes came with its header, as a writable copy. Raises WireError.

    Args:
        data: The bytes; read the header's field only once, because protobuf copies them at every access.
        spec: The checked header.
    """
    if len(data) != spec.wire_nbytes:
        raise WireError(
            ERROR_REASON_BAD_TENSOR,
            f"tensor {spec.name!r} carries {len(data)} bytes; expected all {spec.wire_nbytes}, or none if they follow in chunks",
        )
    if spec.codec:
        decoded = np.empty(spec.shape, spec.dtype)
        decode(np.frombuffer(data, np.uint8), spec.codec, decoded)
        return decoded
    array = np.frombuffer(bytearray(data), spec.dtype).reshape(spec.shape)
    return widened(array, spec.value) if spec.value == DTYPE_BFLOAT16 else array


class Assembler:
    """Assembles the chunks of one tensor, block by block of its rows.

    Memory is allocated for one block at a time, when its first byte arrives. Encoded bytes are decoded a few rows at a time,
    so that at most a row or 256 KiB of them is in memory beside the block.

    Args:
        spec: The checked header.
        block_rows: Rows in a block, at least 1; None: one block with all of them.
        into: Memory for the whole tensor, writable and in C order, with ``block_rows`` None; allocated if not given.

    Raises:
        ValueError: ``block_rows`` or ``into`` violates these rules.
    """

    def __init__(self, spec: TensorSpec, block_rows: int | None = None, into: Array | None = None) -> None:
        if block_rows is not None and (block_rows < 1 or into is not None):
            raise ValueError(f"block_rows is {block_rows}; expected at least 1, and None with into")
        if into is not None and not (into.shape == spec.shape and into.dtype == spec.dtype and into.flags.carray):
            raise ValueError(
                f"into has shape {into.shape} of {into.dtype}; expected {spec.shape} of {spec.dtype}, writable, in C order"
            )
        self.spec = spec
        self._block_rows = block_rows if block_rows is not None and spec.shape else None
        self._into = into
        self._received = 0
        self._block: Array | None = None
        # Destination of the next bytes: the block's own memory, or encoded bytes of its next few rows.
        self._bytes: memoryview = memoryview(b"")
        self._filled = 0
        self._rows_done = 0
        self._rows_decoded = 0

    @property
    def complete(self) -> bool:
        """True if every byte has arrived."""
        return self._received == self.spec.wire_nbytes

    def feed(self, offset: int, data: memoryview | bytes) -> Iterator[Array]:
        """Adds one chunk and yields the blocks that it completes.

        Raises:
            WireError: The chunk is empty, does not begin at the end of the last one, or exceeds the tensor. It is
                checked before any byte is copied.
        """
        size = len(data)
        if offset != self._received:
            raise WireError(
                ERROR_REASON_BAD_FRAME, f"chunk of tensor {self.spec.name!r} begins at byte {offset}; expected {self._received}"
            )
        if not size:
            raise WireError(ERROR_REASON_BAD_FRAME, f"empty chunk of tensor {self.spec.name!r}")
        if offset + size > self.spec.wire_nbytes:
            raise WireError(
                ERROR_REASON_BAD_FRAME,
                f"chunk of tensor {self.spec.name!r} ends at byte {offset + size}; the tensor has {self.spec.wire_nbytes}",
            )
        self._received += size
        return self._fill(memoryview(data))

    def _fill(self, data: memoryview) -> Iterator[Array]:
        while data:
            if self._block is None:
                self._take()
            assert self._block is not None
            part = data[: len(self._bytes) - self._filled]
            self._bytes[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            data = data[len(part) :]
            if self._filled == len(self._bytes) and self._whole():
                block, self._block = self._block, None
                self._bytes = memoryview(b"")
                yield widened(block, self.spec.value)

    def _take(self) -> None:
        shape = self.spec.shape
        if self._block_rows is not None:
            shape = (min(self._block_rows, shape[0] - self._rows_done), *shape[1:])
            self._rows_done += shape[0]
        self._block = np.empty(shape, self.spec.dtype) if self._into is None else self._into
        self._rows_decoded = 0
        if self.spec.codec:
            self._take_stage()
        else:
            self._bytes, self._filled = raw(self._block), 0

    def _take_stage(self) -> None:
        assert self._block is not None
        rows, elements_a_row = rows_and_elements(self._block.shape)
        row_nbytes = CODINGS[self.spec.codec].row_nbytes(elements_a_row)
        rows = min(rows - self._rows_decoded, max(1, _STAGE_NBYTES // row_nbytes))
        self._bytes, self._filled = memoryview(bytearray(rows * row_nbytes)), 0

    def _whole(self) -> bool:
        """Decodes the gathered bytes, and returns True if the block is complete."""
        if not self.spec.codec:
            return True
        assert self._block is not None
        rows, elements_a_row = rows_and_elements(self._block.shape)
        begin = self._rows_decoded
        self._rows_decoded += len(self._bytes) // CODINGS[self.spec.codec].row_nbytes(elements_a_row)
        part = self._block.reshape(rows, elements_a_row)[begin : self._rows_decoded]
        decode(np.frombuffer(self._bytes, np.uint8), self.spec.codec, part)
        if self._rows_decoded < rows:
            self._take_stage()
            return False
        return True
