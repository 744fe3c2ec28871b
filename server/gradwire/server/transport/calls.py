"""Incoming calls on a stream: the first message, tensors read whole, and the row blocks that follow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError

from gradwire.backends.backend import Array
from gradwire.backends.errors import InvalidValue
from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_FRAME, ERROR_REASON_BAD_TENSOR, ERROR_REASON_TOO_LARGE
from gradwire.wire.codecs import CODINGS, name_of
from gradwire.wire.errors import WireError
from gradwire.wire.frames import Chunk, chunk_of
from gradwire.wire.tensors import Assembler, inline, specs_of

MAX_TENSORS = 2
"""Tensors of one call: the rows, and labels, a label or a cotangent."""

MAX_REQUEST_ID = 128
"""Characters of a request id; ids are kept in memory."""

Read = Callable[[], Awaitable[bytes | Chunk | None]]
"""Reads the next message of the stream; None at its end."""


def check_call_rows(rows: int, max_rows: int | None) -> None:
    """Checks the number of rows of a call. Raises WireError."""
    if max_rows is not None and rows > max_rows:
        raise WireError(ERROR_REASON_TOO_LARGE, f"the call has {rows} rows; the limit max_rows is {max_rows}; send fewer at once")


def parse(message: bytes | Chunk, request: type[Any]) -> Any:
    """Parses a message of a stream. Raises WireError."""
    if isinstance(message, Chunk):
        raise WireError(ERROR_REASON_BAD_FRAME, f"expected a {request.DESCRIPTOR.name}; got a chunk")
    try:
        return request.FromString(message)
    except (DecodeError, UnicodeDecodeError):  # the latter from protobuf in pure Python
        raise WireError(ERROR_REASON_BAD_FRAME, f"{len(message)} bytes are not a {request.DESCRIPTOR.name}") from None


def opening(message: bytes | Chunk, request: type[Any]) -> Any:
    """Parses the first message of a call.

    Raises:
        WireError: The message is of another type, or has no field ``open``.
        InvalidValue: The request id is too long.
    """
    first = parse(message, request)
    if not first.HasField("open"):
        raise WireError(
            ERROR_REASON_BAD_FRAME, f"the first message of a call is a {request.DESCRIPTOR.name} with open; got one without"
        )
    request_id = first.open.call.request_id
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidValue(f"request_id has {len(request_id)} characters; expected at most {MAX_REQUEST_ID}")
    return first


class IncomingTensors:
    """Tensors that a message declares, read as their bytes arrive.

    Args:
        first: Message that declares them.
        request: Type of the stream's messages.
        read: Reads the next message.
        max_tensor_bytes: Largest size of one tensor.

    Attributes:
        specs: Specifications of the tensors, in the declared order.
        names: Their names.
    """

    def __init__(self, first: Any, request: type[Any], read: Read, max_tensor_bytes: int) -> None:
        if first.HasField("chunk"):
            raise WireError(ERROR_REASON_BAD_FRAME, "a message holds tensors and a chunk; expected one of the two")
        if len(first.tensors) > MAX_TENSORS:
            raise WireError(
                ERROR_REASON_BAD_FRAME, f"a message declares {len(first.tensors)} tensors; expected at most {MAX_TENSORS}"
            )
        self.specs = specs_of(first.tensors, max_tensor_bytes)
        self.names = tuple(spec.name for spec in self.specs)
        for spec in self.specs:
            if spec.codec and CODINGS[spec.codec].of_gradients:
                raise WireError(
                    ERROR_REASON_BAD_TENSOR,
                    f"tensor {spec.name!r} has codec {name_of(spec.codec)}, which is for results only; use another codec, or none",
                )
        # Tensors that came with the message, in the declared order; None for those that follow in chunks.
        self._inline = [
            inline(data, spec) if (data := header.data) or not spec.nbytes else None
            for header, spec in zip(first.tensors, self.specs, strict=True)
        ]
        self._request = request
        self._read = read

    async def whole(self, index: int, max_nbytes: int, into: Array | None = None) -> Array:
        """Reads one tensor whole. Tensors must be read in order. Raises WireError."""
        spec, array = self.specs[index], self._inline[index]
        if max_nbytes and spec.nbytes > max_nbytes:
            raise WireError(
                ERROR_REASON_TOO_LARGE,
                f"tensor {spec.name!r} with shape {spec.shape} has {spec.nbytes} bytes; the limit max_held_bytes is {max_nbytes}",
            )
        if array is None:
            async for assembled in self._assembled(Assembler(spec, into=into)):
                return assembled
        elif into is None:
            return array
        else:
            into[...] = array
            return into
        raise AssertionError("a complete assembler yields its block")

    async def held(self, max_nbytes: int) -> dict[str, Array]:
        """Reads all tensors but the last whole, by name. Raises WireError."""
        return {spec.name: await self.whole(index, max_nbytes) for index, spec in enumerate(self.specs[:-1])}

    async def last(self) -> Array:
        """Reads the last tensor whole. Raises WireError."""
        return await self.whole(len(self.specs) - 1, 0)

    async def blocks(self, block_rows: int) -> AsyncIterator[Array]:
        """Reads the last tensor in blocks of rows, as they arrive. Raises WireError."""
        index = len(self.specs) - 1
        array = self._inline[index]
        if array is not None:
            for begin in range(0, len(array), block_rows):
                yield array[begin : begin + block_rows]
            return
        async for block in self._assembled(Assembler(self.specs[index], block_rows)):
            yield block

    async def _assembled(self, assembler: Assembler) -> AsyncIterator[Array]:
        while not assembler.complete:
            message = await self._read()
            if message is None:
                raise WireError(
                    ERROR_REASON_BAD_FRAME,
                    f"the stream ended before all {assembler.spec.wire_nbytes} bytes of tensor {assembler.spec.name!r} arrived",
                )
            for block in assembler.feed(*self._chunk(message, assembler.spec.name)):
                yield block

    def _chunk(self, message: bytes | Chunk, name: str) -> tuple[int, memoryview | bytes]:
        chunk = chunk_of(message)
        if chunk is not None:
            return chunk
        parsed = parse(message, self._request)
        if not parsed.HasField("chunk") or parsed.HasField("open") or parsed.tensors:
            raise WireError(ERROR_REASON_BAD_FRAME, f"expected a chunk of tensor {name!r}; got another message")
        return parsed.chunk.offset, parsed.chunk.data
