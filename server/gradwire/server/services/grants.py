"""GrantService: grants, given and revoked by admins."""

from __future__ import annotations

from typing import Any

from gradwire.backends.errors import InvalidValue
from gradwire.server.services.grant_messages import grant_of_message, message_of
from gradwire.server.transport.streams import OpenStreams
from gradwire.server.transport.unary import answered
from gradwire.server.trust.grants.book import WrongGrants, stored_of
from gradwire.server.trust.identity.guard import caller
from gradwire.server.trust.trust import Trust
from gradwire.v1 import grants_pb2 as pb
from gradwire.v1 import grants_pb2_grpc


class GrantServicer(grants_pb2_grpc.GrantServiceServicer):
    """Serves GrantService. A change is in force here at the answer, and on other servers of the store within a second.

    Args:
        streams: Open streams, which say whether the server drains.
        trust: Grants and their store.
    """

    def __init__(self, streams: OpenStreams, trust: Trust) -> None:
        self._streams = streams
        self._trust = trust

    async def PutGrant(self, request: pb.PutGrantRequest, context: Any) -> pb.PutGrantResponse:  # noqa: N802
        """Gives a grant, in place of any earlier one for the same principal and model."""

        async def answer() -> pb.PutGrantResponse:
            admin = self._admin()
            grant = grant_of_message(request.grant)
            try:
                self._trust.book.check(grant)
            except WrongGrants as e:
                raise InvalidValue(str(e)) from e
            with self._trust.recorder.entry(admin, "grant") as entry:
                entry.model, entry.request_id = grant.model, f"to {grant.principal}: {grant.access}"
                await self._trust.change(self._trust.store.put_grant, stored_of(grant))
            return pb.PutGrantResponse(grant=message_of(grant))

        return await answered(context, self._streams, answer())

    async def RevokeGrant(self, request: pb.RevokeGrantRequest, context: Any) -> pb.RevokeGrantResponse:  # noqa: N802
        """Revokes a grant."""

        async def answer() -> pb.RevokeGrantResponse:
            admin = self._admin()
            if self._trust.book.of(request.principal, request.model) is None:
                raise InvalidValue(f"{request.principal!r} has no grant for {request.model!r}")
            with self._trust.recorder.entry(admin, "revoke") as entry:
                entry.model, entry.request_id = request.model, f"of {request.principal}"
                await self._trust.change(self._trust.store.revoke_grant, request.principal, request.model)
            return pb.RevokeGrantResponse()

        return await answered(context, self._streams, answer())

    async def ListGrants(self, request: pb.ListGrantsRequest, context: Any) -> pb.ListGrantsResponse:  # noqa: N802
        """Answers the grants in force, of one principal or of all."""

        async def answer() -> pb.ListGrantsResponse:
            self._admin()
            grants = [g for g in self._trust.book.all() if request.principal in ("", g.principal)]
            return pb.ListGrantsResponse(grants=[message_of(g) for g in sorted(grants, key=lambda g: (g.principal, g.model))])

        return await answered(context, self._streams, answer())

    def _admin(self) -> str:
        principal = caller()
        self._trust.check_admin(principal)
        return principal
