"""What a caller has used."""

from __future__ import annotations

from typing import Any

from gradwire.server.access import CONTRACT
from gradwire.server.cards import operations
from gradwire.server.catalogue import Catalogue, Served
from gradwire.server.streams import OpenStreams
from gradwire.server.unary import answered
from gradwire.v1 import usage_pb2 as pb
from gradwire.v1 import usage_pb2_grpc


class UsageServicer(usage_pb2_grpc.UsageServiceServicer):
    """Serves UsageService: rows by served name since the server's start. Names have no budgets and never expire."""

    def __init__(self, catalogue: Catalogue, streams: OpenStreams) -> None:
        self._catalogue = catalogue
        self._streams = streams

    async def GetUsage(self, request: pb.GetUsageRequest, context: Any) -> pb.GetUsageResponse:  # noqa: N802
        async def answer() -> pb.GetUsageResponse:
            asked = [self._catalogue.get(request.model)] if request.model else list(self._catalogue)
            return pb.GetUsageResponse(models=[_usage(served) for served in asked])

        return await answered(context, self._streams, answer())


def _usage(served: Served) -> pb.ModelUsage:
    used = served.counter.used
    return pb.ModelUsage(
        model=served.name,
        access=CONTRACT[served.access],
        operations=operations(served),
        used=pb.Rows(forward=used.forward, backward=used.backward),
        # No limits: no max, no left.
        budget=pb.Budget(),
    )
