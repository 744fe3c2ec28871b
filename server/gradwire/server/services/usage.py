"""What callers have used, and what they may still use."""

from __future__ import annotations

from typing import Any

from gradwire.server.catalogue.cards import operations
from gradwire.server.catalogue.catalogue import Catalogue
from gradwire.server.catalogue.granted import Granted
from gradwire.server.services.grant_messages import timestamp
from gradwire.server.transport.streams import OpenStreams
from gradwire.server.transport.unary import answered
from gradwire.server.trust.trust import Trust
from gradwire.server.values.contract import CONTRACT
from gradwire.server.values.rows import Rows
from gradwire.v1 import usage_pb2 as pb
from gradwire.v1 import usage_pb2_grpc


class UsageServicer(usage_pb2_grpc.UsageServiceServicer):
    """Serves UsageService.

    Args:
        catalogue: What is served.
        streams: Where open streams are kept.
        trust: Where rows are counted.
    """

    def __init__(self, catalogue: Catalogue, streams: OpenStreams, trust: Trust) -> None:
        self._catalogue = catalogue
        self._streams = streams
        self._trust = trust

    async def GetUsage(self, request: pb.GetUsageRequest, context: Any) -> pb.GetUsageResponse:  # noqa: N802
        async def answer() -> pb.GetUsageResponse:
            caller = self._streams.identity.principal(context)
            if request.everybody or request.principal not in ("", caller):
                self._trust.check_admin(caller)
            whose = self._trust.book.principals() if request.everybody else [request.principal or caller]
            asked = [granted for principal in whose for granted in self._catalogue.of(principal)]
            if request.model:
                asked = [granted for granted in asked if granted.name == request.model]
                if not asked:
                    self._catalogue.get(request.model, caller)
            else:
                # What clones are used for is counted under the name that they come from.
                asked = [granted for granted in asked if not granted.clone_of]
            await self._trust.flush()
            return pb.GetUsageResponse(principal=caller, models=[await self._usage(granted) for granted in asked])

        return await answered(context, self._streams, answer())

    async def _usage(self, granted: Granted) -> pb.ModelUsage:
        grant = granted.grant
        now_s = self._trust.desk.clock.now_s()
        store, ask = self._trust.store, self._trust.desk.ask
        used = await ask(store.usage, granted.principal, granted.account_name)
        result = pb.ModelUsage(
            principal=granted.principal,
            model=granted.name,
            access=CONTRACT[granted.access],
            operations=operations(granted),
            used=_rows(used[0].rows if used else Rows()),
            budget=pb.Budget(rows_per_s=grant.budget.rows_per_s or 0),
        )
        if grant.expires is not None:
            result.expires.CopyFrom(timestamp(grant.expires_s))
        if grant.budget.counted:
            held = granted.charges.account.left
            taken = await ask(store.taken, granted.principal, granted.account_name, grant.budget.window_s, now_s)
            _limit(result.budget, grant.budget.forward, grant.budget.backward, taken.total - held)
            if grant.budget.window_s is not None:
                # Rows that are held from a window that is over do not count in this one.
                held = granted.charges.account.left_of(taken.window_start)
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
