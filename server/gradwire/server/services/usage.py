"""UsageService: rows used so far and rows left."""

from __future__ import annotations

from typing import Any

from gradwire.server.catalogue.admitted import Admitted
from gradwire.server.catalogue.cards import operations
from gradwire.server.catalogue.catalogue import Catalogue
from gradwire.server.services.grant_messages import timestamp
from gradwire.server.transport.streams import OpenStreams
from gradwire.server.transport.unary import answered
from gradwire.server.trust.identity.guard import caller
from gradwire.server.trust.trust import Trust
from gradwire.server.values.contract import CONTRACT
from gradwire.server.values.rows import Rows
from gradwire.v1 import usage_pb2 as pb
from gradwire.v1 import usage_pb2_grpc


class UsageServicer(usage_pb2_grpc.UsageServiceServicer):
    """Serves UsageService.

    Args:
        catalogue: Served names.
        streams: Open streams, which say whether the server drains.
        trust: Grants, budgets and the store.
    """

    def __init__(self, catalogue: Catalogue, streams: OpenStreams, trust: Trust) -> None:
        self._catalogue = catalogue
        self._streams = streams
        self._trust = trust

    async def GetUsage(self, request: pb.GetUsageRequest, context: Any) -> pb.GetUsageResponse:  # noqa: N802
        """Answers rows used and rows left, for one model or all."""

        async def answer() -> pb.GetUsageResponse:
            principal = caller()
            if request.everybody or request.principal not in ("", principal):
                self._trust.check_admin(principal)
            whose = self._trust.book.principals() if request.everybody else [request.principal or principal]
            asked = [admitted for one in whose for admitted in self._catalogue.of(one)]
            if request.model:
                asked = [admitted for admitted in asked if admitted.name == request.model]
                if not asked:
                    self._catalogue.admit(request.model, principal)
            else:
                # Use of clones is counted under the name that they come from.
                asked = [admitted for admitted in asked if not admitted.served.clone_of]
            await self._trust.flush()
            return pb.GetUsageResponse(principal=principal, models=[await self._usage(admitted) for admitted in asked])

        return await answered(context, self._streams, answer())

    async def _usage(self, admitted: Admitted) -> pb.ModelUsage:
        grant = admitted.grant
        now_s = self._trust.desk.clock.now_s()
        store, ask = self._trust.store, self._trust.desk.ask
        used = await ask(store.usage, admitted.principal, admitted.account_name)
        result = pb.ModelUsage(
            principal=admitted.principal,
            model=admitted.name,
            access=CONTRACT[admitted.access],
            operations=operations(admitted),
            used=_rows(used[0].rows if used else Rows()),
            budget=pb.Budget(rows_per_s=grant.budget.rows_per_s or 0),
        )
        if grant.expires is not None:
            result.expires.CopyFrom(timestamp(grant.expires_s))
        if grant.budget.counted:
            held = admitted.charges.account.left
            taken = await ask(store.taken, admitted.principal, admitted.account_name, grant.budget.window_s, now_s)
            _limit(result.budget, grant.budget.forward, grant.budget.backward, taken.total - held)
            if grant.budget.window_s is not None:
                # Rows held from an earlier window do not count in this one.
                held = admitted.charges.account.left_of(taken.window_start)
                _limit(result.window, grant.budget.window_forward, grant.budget.window_backward, taken.window - held)
                result.window.refills.CopyFrom(timestamp(taken.window_start + grant.budget.window_s))
        return result


def _limit(budget: pb.Budget, forward: int | None, backward: int | None, taken: Rows) -> None:
    if forward is not None:
        budget.max_forward, budget.left_forward = forward, max(0, forward - taken.forward)
    if backward is not None:
        budget.max_backward, budget.left_backward = backward, max(0, backward - taken.backward)


def _rows(rows: Rows) -> pb.Rows:
    return pb.Rows(forward=rows.forward, backward=rows.backward)
