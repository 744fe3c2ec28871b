"""Unary calls: one answer, or one error as a gRPC status."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

from gradwire.server.errors import Draining
from gradwire.server.faults import fault
from gradwire.server.telemetry.refused import REFUSALS
from gradwire.server.transport.streams import DRAINING, OpenStreams

log = logging.getLogger("gradwire.server")

T = TypeVar("T")


async def answered(context: Any, streams: OpenStreams, answer: Coroutine[Any, Any, T]) -> T:
    """Awaits the answer to a unary call, and turns an error into the call's status."""
    try:
        if streams.draining:
            raise Draining(DRAINING)
        if streams.refusing is not None:
            raise streams.refusing
        with streams.unary():
            return await answer
    except Exception as e:
        told = fault(e)
        if told.code is grpc.StatusCode.INTERNAL:
            log.error("call failed", extra={"peer": context.peer(), "reason": told.text}, exc_info=e)
        else:
            REFUSALS.take(context.peer(), told, streams.traffic)
        await context.abort(told.code, told.text, told.metadata())
        raise AssertionError("abort raises") from e
    finally:
        # A refused call never began it.
        answer.close()
