"""Interceptor that authenticates every RPC except health. New services are covered automatically.

A unary call is authenticated once, here; its service reads the result from `caller`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from gradwire.server.errors import Unauthenticated
from gradwire.server.faults import fault
from gradwire.server.trust.identity.callers import Identity
from gradwire.server.values.principals import ANONYMOUS

_OPEN = f"/{health_pb2.DESCRIPTOR.services_by_name['Health'].full_name}/"


_CALLER: ContextVar[str] = ContextVar("gradwire_caller", default=ANONYMOUS)


def caller() -> str:
    """Principal of the unary call under way, on the call's own task; anonymous without a `Guard`."""
    return _CALLER.get()


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls that are not authenticated.

    Args:
        identity: Authenticates callers.
        own: Prefix of the methods that authenticate each call on their streams themselves.
    """

    def __init__(self, identity: Identity, own: str) -> None:
        self._identity = identity
        self._own = own

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Puts authentication before the handler of a method (gRPC calls this)."""
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
            _CALLER.set(self._identity.principal(context))
        except Unauthenticated as e:
            status = fault(e)
            await context.abort(status.code, status.text, status.metadata())
