"""Any bytes as a message of a stream: the parser of chunks, checked headers, and arrays put together from what they announce.

What holds: nothing comes out but `WireError`; a chunk is read as protobuf would read it; an array has the bytes that its
header announced.
"""

from __future__ import annotations

from gradwire.server.transport.calls import parse
from gradwire.v1 import estimator_pb2 as pb
from gradwire.wire.errors import WireError
from gradwire.wire.frames import chunk_of
from gradwire.wire.tensors import Assembler, inline, spec_of

_MAX_NBYTES = 1 << 20


def one_input(data: bytes) -> None:
    """Reads the bytes in every way that there is for a message."""
    chunk = chunk_of(data)
    try:
        request = parse(data, pb.PredictRequest)
    except WireError:
        assert chunk is None, "a chunk was read where protobuf reads no message"
        return
    if chunk is not None:
        assert (chunk.offset, bytes(chunk.data)) == (request.chunk.offset, request.chunk.data)
    for header in request.tensors[:4]:
        try:
            spec = spec_of(header, _MAX_NBYTES)
            if header.data:
                assert inline(header.data, spec).nbytes == spec.nbytes
            elif spec.nbytes:
                _assemble(spec, request.chunk)
        except WireError:
            continue


def _assemble(spec: object, chunk: pb.TensorChunk) -> None:
    for block_rows in (None, 1 + chunk.offset % 7):
        assembler = Assembler(spec, block_rows)  # type: ignore[arg-type]
        for block in assembler.feed(chunk.offset, chunk.data):
            assert block.nbytes <= _MAX_NBYTES
