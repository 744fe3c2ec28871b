"""Results written to a stream in blocks of rows."""

from __future__ import annotations

from gradwire.backends.backend import Array
from gradwire.backends.errors import ModelFailed
from gradwire.server.transport.codecs import ready
from gradwire.server.transport.streams import OpenStream
from gradwire.v1.tensor_pb2 import Codec
from gradwire.wire.frames import first_message, header_message
from gradwire.wire.tensors import outgoing


class ResultWriter:
    """Sends the results of row blocks as one tensor, each when it is ready.

    Args:
        stream: Stream of the call.
        rows: Rows of the whole call.
        codec: Codec of the results.
    """

    def __init__(self, stream: OpenStream, rows: int, codec: Codec) -> None:
        self._stream = stream
        self._rows = rows
        self._codec = codec
        self._row_shape: tuple[int, ...] | None = None
        self._head = b""
        self._sent = 0

    async def write(self, block: Array) -> None:
        """Sends one block. Raises ModelFailed if its rows have another shape than those before."""
        value, _, codec, data = await ready(block, self._codec)
        if self._row_shape is None:
            self._row_shape = block.shape[1:]
            nbytes = len(data) // len(block) * self._rows
            self._head = header_message("result", value, (self._rows, *self._row_shape), nbytes, codec)
        elif block.shape[1:] != self._row_shape:
            raise ModelFailed(
                f"the model answered row blocks in shapes {self._row_shape} and {block.shape[1:]}; expected one shape"
            )
        if data:
            await self._stream.write_data(data, self._sent, self._head)
            self._head, self._sent = b"", self._sent + len(data)

    async def end(self) -> None:
        """Sends the header if the rows have no elements: it is then the whole answer, and ends the call."""
        if self._head:
            await self._stream.write(self._head)


async def write_result(stream: OpenStream, result: Array, codec: Codec) -> None:
    """Sends a whole result, in one message if it is small."""
    encoded = await ready(result, codec) if codec else outgoing(result)
    first, chunked = first_message(b"", [("result", encoded)], stream.inline_nbytes)
    if not chunked:
        await stream.write(first)
    for data in chunked:
        await stream.write_data(data, 0, first)
