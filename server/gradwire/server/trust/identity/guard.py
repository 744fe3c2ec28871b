"""Stands before every method of the gRPC server: who is not known gets no further. Health is for everybody.

Whatever service is added later is guarded without a word of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from gradwire.server.errors import Unauthenticated
from gradwire.server.faults import fault
from gradwire.server.trust.identity.callers import Identity

_OPEN = f"/{health_pb2.DESCRIPTOR.services_by_name['Health'].full_name}/"


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls of callers who are not known.

    Args:
        identity: Tells who calls.
        own: Begins the methods that ask for themselves, at every call on their streams.
    """

    def __init__(self, identity: Identity, own: str) -> None:
        self._identity = identity
        self._own = own

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """gRPC's: the handler of a method, behind the question who calls."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith((_OPEN, self._own)):
            return handler
        kind = ("unary" if not handler.request_streaming else "stream") + (
            "_unary" if not handler.response_streaming else "_stream"
        )
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        behaviour = self._guarded(getattr(handler, kind))
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    def _guarded(self, behaviour: Any) -> Any:
        if inspect.isasyncgenfunction(behaviour):

            async def messages(request: Any, context: Any) -> AsyncIterator[Any]:
                await self._check(context)
                async for message in behaviour(request, context):
                    yield message

            return messages

        async def answer(request: Any, context: Any) -> Any:
            await self._check(context)
            return await behaviour(request, context)

        return answer

    async def _check(self, context: Any) -> None:
        try:
            self._identity.principal(context)
        except Unauthenticated as e:
            told = fault(e)
            await context.abort(told.code, told.text, told.metadata())
