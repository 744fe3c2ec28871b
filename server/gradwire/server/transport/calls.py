"""One call as it comes in on a stream: its first message, the tensors that are held, and the row blocks that follow."""

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
from gradwire.wire.tensors import Assembler, TensorSpec, inline, spec_of

MAX_TENSORS = 2
"""Of one call: what it works on, and labels, a label or a cotangent."""

MAX_REQUEST_ID = 128
"""Characters; ids are remembered."""

Read = Callable[[], Awaitable[bytes | Chunk | None]]
"""Reads the next message of the stream; None at its end."""


def check_call_rows(rows: int, max_rows: int | None) -> None:
    """Raises WireError if a call has more rows than one may have."""
    if max_rows is not None and rows > max_rows:
        raise WireError(ERROR_REASON_TOO_LARGE, f"the call has {rows} rows; the limit max_rows is {max_rows}; send fewer at once")


def parse(message: bytes | Chunk, request: type[Any]) -> Any:
    """A message of a stream. Raises WireError."""
    if isinstance(message, Chunk):
        raise WireError(ERROR_REASON_BAD_FRAME, f"a chunk came where a {request.DESCRIPTOR.name} was expected")
    try:
        return request.FromString(message)
    except (DecodeError, UnicodeDecodeError):  # the latter from protobuf in pure Python
        raise WireError(ERROR_REASON_BAD_FRAME, f"{len(message)} bytes are not a {request.DESCRIPTOR.name}") from None


def check_request_id(request_id: str) -> None:
    """Raises InvalidValue."""
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidValue(f"request_id has {len(request_id)} characters; expected at most {MAX_REQUEST_ID}")


class IncomingTensors:
    """The tensors that one message declares, as their bytes come in.

    Args:
        first: The message that declares them.
        request: The type of the stream's messages.
        read: Reads the messages that follow.
        max_tensor_bytes: Of one tensor.
    """

    def __init__(self, first: Any, request: type[Any], read: Read, max_tensor_bytes: int) -> None:
        if first.HasField("chunk"):
            raise WireError(ERROR_REASON_BAD_FRAME, "a message holds tensors and a chunk; expected one of the two")
        if len(first.tensors) > MAX_TENSORS:
            raise WireError(
                ERROR_REASON_BAD_FRAME, f"a message declares {len(first.tensors)} tensors; expected at most {MAX_TENSORS}"
            )
        self.specs: list[TensorSpec] = [spec_of(header, max_tensor_bytes) for header in first.tensors]
        for spec in self.specs:
            if spec.codec and CODINGS[spec.codec].of_gradients:
                raise WireError(
                    ERROR_REASON_BAD_TENSOR,
                    f"tensor {spec.name!r} has codec {name_of(spec.codec)}, which is for results; send it in another, or as it is",
                )
        # What came whole, in the order of the declaration; None for what follows in chunks.
        self._inline = [
            inline(data, spec) if (data := header.data) or not spec.nbytes else None
            for header, spec in zip(first.tensors, self.specs, strict=True)
        ]
        self._request = request
        self._read = read

    async def whole(self, index: int, max_nbytes: int, into: Array | None = None) -> Array:
        """All of one tensor. Tensors must be taken in order. Raises WireError."""
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
        raise AssertionError("an assembler that is complete has yielded its block")

    async def blocks(self, index: int, block_rows: int) -> AsyncIterator[Array]:
        """One tensor, block by block of its rows, as they come. Raises WireError."""
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
                    f"the stream ended before all {assembler.spec.wire_nbytes} bytes of tensor {assembler.spec.name!r}",
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
