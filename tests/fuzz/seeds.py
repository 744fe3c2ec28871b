"""Inputs to begin with: what a client really sends for every operation, and what a server really answers.

``python -m fuzz.seeds`` in ``tests`` records both from a real server over its Unix socket, and adds them to the kept inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fuzz.run import CORPUS
from fuzz.served import CLASSES, FEATURES, LIMITS, MODEL, regression
from fuzz.targets.requests import joined
from fuzz.targets.sockets import FILE

from gradwire.client import Server, connect
from gradwire.client.transport.same_host import SocketStream
from gradwire.server import serving
from gradwire.server.transport.streams import OpenStream
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1.transport_pb2 import SameHostHello
from gradwire.wire.frames import messages, open_field
from gradwire.wire.shared import OFFER, PLACE, SLOT
from gradwire.wire.sockets import FREED, HEADER, HELLO, MESSAGE, SHARE, SHARED

X = np.linspace(-1, 1, 2 * FEATURES, dtype=np.float64).reshape(2, FEATURES)
Y = np.array([0, 2])


def calls(server: Server) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every operation, by its method."""
    remote = server.estimator(MODEL)
    yield "Predict", lambda: remote.predict(X)
    yield "Predict", lambda: remote.predict(np.zeros((40, FEATURES)), batch_size=3)
    yield "Loss", lambda: remote.compute_loss(X, Y, reduction="mean")
    yield "LossGradient", lambda: remote.loss_gradient(X, Y)
    yield "ClassGradient", lambda: remote.class_gradient(X, label=1)
    yield "ClassGradient", lambda: remote.class_gradient(X, label=Y)
    yield "ClassGradient", lambda: remote.class_gradient(X)
    yield "GetActivations", lambda: remote.get_activations(X, 0)
    yield "VectorJacobianProduct", lambda: remote.vjp(X, np.ones((2, CLASSES)))
    yield "Fit", lambda: remote.fit(np.tile(X, (20, 1)), np.tile([0, 1, 2, 1], 10), nb_epochs=1)


def recorded() -> Iterator[tuple[str, list[bytes], list[tuple[int, bytes]]]]:
    """Method, messages sent and frames answered of every operation on a real server."""
    read, take = OpenStream.read, SocketStream._frame
    sent: list[bytes] = []
    answered: list[tuple[int, bytes]] = []

    async def reading(stream: OpenStream) -> Any:
        message = await read(stream)
        if isinstance(message, (bytes, bytearray)):
            sent.append(bytes(message))
        return message

    def taking(stream: SocketStream) -> Any:
        kind, frame = take(stream)
        answered.append((kind, bytes(frame)))
        return kind, frame

    OpenStream.read, SocketStream._frame = reading, taking  # type: ignore[method-assign, assignment]
    try:
        model = {"backend": "sklearn", "factory": regression, "input_shape": [FEATURES], "nb_classes": CLASSES, "access": "trainer"}
        with serving({MODEL: model}, limits=LIMITS) as address, connect(address) as server:
            for method, call in calls(server):
                sent.clear()
                answered.clear()
                try:
                    call()
                except Exception as e:  # what the model cannot do is recorded too
                    print(f"{method}: {type(e).__name__}: {e}"[:150])
                yield method, list(sent), list(answered)
    finally:
        OpenStream.read, SocketStream._frame = read, take  # type: ignore[method-assign]


def frame(kind: int, payload: bytes) -> bytes:
    """One frame of the Unix socket."""
    return HEADER.pack(kind, len(payload)) + payload


def pieces(*parts: bytes) -> bytes:
    """Input in several pieces, in the form of the fuzz target for sockets."""
    return b"".join(len(part).to_bytes(2, "little") + part for part in parts)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Target and input."""
    for method, sent, answered in recorded():
        hello = frame(HELLO, SameHostHello(method=method, client="a").SerializeToString())
        yield "requests", joined(method, sent)
        yield "sockets", pieces(hello, *(frame(MESSAGE, message) for message in sent))
        yield "answers", b"".join(frame(kind, payload) for kind, payload in answered) + b"\0"
        for message in sent:
            yield "frames", message
    for method, opened in (("Predict", pb.PredictOpen()), ("LossGradient", pb.LossGradientOpen()), ("Fit", pb.FitOpen())):
        opened.call.model, opened.call.request_id, opened.call.timeout_s = MODEL, "id", 5.0
        arrays = [("x", X)] if method == "Predict" else [("y", Y), ("x", X)]
        chunked = list(messages(open_field(opened.SerializeToString()), arrays, 24))
        hello = frame(HELLO, SameHostHello(method=method, client="a", metadata={"authorization": "Bearer t"}).SerializeToString())
        yield "requests", joined(method, chunked)
        yield "sockets", pieces(hello + b"".join(frame(MESSAGE, message) for message in chunked))
        for message in chunked:
            yield "frames", message
    opened = pb.PredictOpen(call=pb.CallHeader(model=MODEL))
    first = next(messages(open_field(opened.SerializeToString()), [("x", X)], 24))
    hello = frame(HELLO, SameHostHello(method="Predict", client="a").SerializeToString())
    shared = [frame(SHARED, PLACE.pack(slot, 32 * slot, 32)) for slot in range(2)]
    yield "sockets", pieces(hello, frame(SHARE, OFFER.pack(FILE)), frame(MESSAGE, first), *shared, frame(FREED, SLOT.pack(0)))
    answer = pb.PredictResponse(tensors=list(pb.PredictRequest.FromString(first).tensors)).SerializeToString()
    share = frame(SHARE, b"\1")
    yield "answers", share + frame(MESSAGE, answer) + b"".join(shared) + frame(FREED, SLOT.pack(1)) + b"\1"
    yield "frames", answer


def main() -> None:
    """Adds the seeds to what is kept."""
    for target, data in seeds():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()[:16]).write_bytes(data)
    for folder in sorted(path for path in CORPUS.iterdir() if path.is_dir()):
        files: list[Path] = list(folder.iterdir())
        print(f"{folder.name}: {len(files)} inputs, {sum(file.stat().st_size for file in files)} bytes")


if __name__ == "__main__":
    main()
