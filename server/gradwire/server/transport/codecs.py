"""Codecs of results: checked before a call is computed, and encoded off the event loop if the result is large."""

from __future__ import annotations

import asyncio

from gradwire.backends.backend import Array
from gradwire.backends.capabilities import Operation
from gradwire.backends.errors import InvalidValue
from gradwire.v1.tensor_pb2 import Codec
from gradwire.wire.codecs import CODINGS, name_of
from gradwire.wire.frames import CHUNK_NBYTES
from gradwire.wire.tensors import Outgoing, outgoing

_GRADIENTS = frozenset({Operation.LOSS_GRADIENT, Operation.CLASS_GRADIENT, Operation.VJP})


def check_result_codec(operation: Operation, codec: int) -> None:
    """Checks the codec of an operation's results. Raises InvalidValue."""
    if not codec:
        return
    known = [number for number in CODINGS if operation in _GRADIENTS or not CODINGS[number].of_gradients]
    if operation in (Operation.FIT, Operation.FIT_BATCHES):
        raise InvalidValue(f"result_codec is {name_of(codec)}; a fit has no result to encode; leave it out")
    if codec not in known:
        raise InvalidValue(
            f"result_codec is {name_of(codec)}; results of {operation.value} travel unencoded "
            f"or in one of: {', '.join(map(name_of, known))}"
        )


async def ready(result: Array, codec: Codec) -> Outgoing:
    """Encodes a result. A large one is encoded on another thread, while other calls are served."""
    if codec and result.nbytes > CHUNK_NBYTES:
        return await asyncio.to_thread(outgoing, result, codec)
    return outgoing(result, codec)
