"""Regressions that fuzzing found: malformed answers become errors of the client and take no memory."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from fuzz.targets import answers, frames

from gradwire.client.errors import Unavailable, error_of
from gradwire.client.transport.same_host import SocketStream
from gradwire.v1 import estimator_pb2 as pb
from gradwire.v1.errors_pb2 import ERROR_REASON_BAD_FRAME, ERROR_REASON_TOO_LARGE
from gradwire.v1.tensor_pb2 import DTYPE_FLOAT64, Tensor
from gradwire.wire.errors import WireError
from gradwire.wire.sockets import HEADER, MESSAGE, STATUS, abstract


@contextmanager
def answering(answer: bytes, name: str) -> Iterator[SocketStream]:
    """A stream to something that answers so, and hangs up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(abstract(name))
        listener.listen()
        stream = SocketStream(name, "Predict", "test", ())
        served, _ = listener.accept()
        with served:
            served.sendall(answer)
            served.shutdown(socket.SHUT_WR)
            yield stream
        stream.close()


def framed(kind: int, payload: bytes) -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def announcing(rows: int) -> bytes:
    x = Tensor(name="result", dtype=DTYPE_FLOAT64, shape=[rows, 4], nbytes=rows * 32 % (1 << 64))
    return bytes(pb.PredictResponse(tensors=[x]).SerializeToString())


@pytest.mark.parametrize(
    ("payload", "reason", "told"),
    [
        (b"\x12\x23\x0a", ERROR_REASON_BAD_FRAME, "the server's answer is not a PredictResponse"),
        (b"", ERROR_REASON_BAD_FRAME, "the answer holds 0 tensors"),
        (announcing(1 << 50), ERROR_REASON_TOO_LARGE, "more than this process can allocate"),
        (announcing(1 << 62), ERROR_REASON_TOO_LARGE, "more bytes than can be addressed"),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_the_wire(payload: bytes, reason: int, told: str) -> None:
    with answering(framed(MESSAGE, payload), f"gradwire-found-{len(payload)}") as stream:
        stream.send_call(b"", [])
        with pytest.raises(WireError, match=told) as caught:
            stream.result()
        assert caught.value.reason == reason


def test_a_stream_that_ends_before_its_call_was_sent_has_been_seen_by_nobody() -> None:
    with answering(framed(STATUS, b""), "gradwire-found-unseen") as stream:
        stream._large_answer = True  # so that memory is offered first
        with pytest.raises(Unavailable) as caught:
            stream.send_call(b"", [])
        assert caught.value.unseen


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (struct.pack("<BI", MESSAGE, 0xFFFF_FFFF), "a frame of 4294967295 bytes; at most"),
        (framed(STATUS, b"\xff\xff"), "a malformed status"),
        (framed(99, b""), "an unexpected frame of kind 99"),
    ],
)
def test_frames_of_a_server_that_make_no_sense_end_the_stream_and_take_no_memory(sent: bytes, told: str) -> None:
    with answering(sent, f"gradwire-found-frame-{len(sent)}") as stream:
        stream.send_call(b"", [])
        with pytest.raises(grpc.RpcError) as caught:
            stream.result()
        assert told in str(error_of(caught.value, "here"))


@pytest.mark.parametrize(
    "data", [b"", b"\x02\x18\0\0\0\x12\x23\n\x06result\x10\n \x08z\x08\xf9\x0c\xbf\xabJ\xf9\xf2?\0", b"\x02\xff\xff\xff\xff"]
)
def test_inputs_that_broke_the_clients_parser_do_so_no_more(data: bytes) -> None:
    answers.one_input(data)
    frames.one_input(data)
