"""What results may travel in: checked before a call is computed, and made so off the event loop where that takes long."""

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
    """Raises InvalidValue if the results of an operation do not travel in a codec, or nobody knows it."""
    if not codec:
        return
    known = [number for number in CODINGS if operation in _GRADIENTS or not CODINGS[number].of_gradients]
    if operation in (Operation.FIT, Operation.FIT_BATCHES):
        raise InvalidValue(f"result_codec is {name_of(codec)}; a fit has no result that could travel so; leave it out")
    if codec not in known:
        raise InvalidValue(
            f"result_codec is {name_of(codec)}; what {operation.value} answers travels as it is, "
            f"or in one of: {', '.join(map(name_of, known))}"
        )


async def ready(result: Array, codec: Codec) -> Outgoing:
    """A result made ready to travel. Others are served while a large one is encoded."""
    if codec and result.nbytes > CHUNK_NBYTES:
        return await asyncio.to_thread(outgoing, result, codec)
    return outgoing(result, codec)
