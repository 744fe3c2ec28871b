"""A whole stream of messages for the servicers of a real model, without a socket between.

The first byte chooses the operation; then each message is two bytes of its length (little-endian) and itself.
What holds: a stream ends in answers, or in a status that says what is wrong with the request; never in "the server failed".
"""

from __future__ import annotations

from contextlib import suppress

from fuzz.served import METHODS, ended_well, loop, same_host
from grpc.aio import EOF, AbortError

from gradwire.v1 import estimator_pb2 as pb

_EPOCHS = 3
"""A fit of a billion epochs is no hang."""


class Tape:
    """A stream whose messages have all come; what the servicers use of a gRPC context."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages[::-1]
        self.answers: list[bytes] = []

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def read(self) -> object:
        return self._messages.pop() if self._messages else EOF

    async def write(self, message: bytes) -> None:
        self.answers.append(bytes(message))

    async def abort(self, code: object, text: str, metadata: object = ()) -> None:
        ended_well(code, text)
        raise AbortError


def split(data: bytes) -> list[bytes]:
    """The messages that an input holds."""
    messages, at = [], 0
    while at + 2 <= len(data):
        length = int.from_bytes(data[at : at + 2], "little")
        messages.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    return messages


def joined(method: str, messages: list[bytes]) -> bytes:
    """The input that holds messages of a method."""
    return bytes((METHODS.index(method),)) + b"".join(len(m).to_bytes(2, "little") + m for m in messages)


def one_input(data: bytes) -> None:
    """Serves one stream."""
    handlers = same_host().handlers
    if not data:
        return
    method = METHODS[data[0] % len(METHODS)]
    messages = split(data[1:])
    if method == "Fit" and _long(messages):
        return
    with suppress(AbortError):
        loop().run_until_complete(handlers[method].stream_stream(None, Tape(messages)))


def _long(messages: list[bytes]) -> bool:
    try:
        return any(pb.FitRequest.FromString(message).open.nb_epochs > _EPOCHS for message in messages)
    except Exception:
        return False
