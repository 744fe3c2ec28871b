"""Cards, versions and clones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from gradwire.backends.capabilities import Operation
from gradwire.server.cards import card
from gradwire.server.catalogue import Catalogue, Served
from gradwire.server.config import Limits
from gradwire.server.scheduler import Scheduler
from gradwire.server.streams import OpenStreams
from gradwire.server.unary import answered
from gradwire.server.versions import Version, VersionStore
from gradwire.v1 import model_pb2 as pb
from gradwire.v1 import model_pb2_grpc

T = TypeVar("T")


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Serves ModelService.

    Args:
        catalogue: What is served.
        scheduler: Where work goes.
        streams: Where open streams are kept.
        versions: Where versions are kept.
        limits: What is taken from callers.
        on_change: Told when clones come (True) and go (False), by name.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        scheduler: Scheduler,
        streams: OpenStreams,
        versions: VersionStore,
        limits: Limits,
        on_change: Callable[[str, bool], Awaitable[None]],
    ) -> None:
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._streams = streams
        self._versions = versions
        self._limits = limits
        self._on_change = on_change

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:  # noqa: N802
        async def answer() -> pb.ListModelsResponse:
            return pb.ListModelsResponse(models=[card(served, self._limits) for served in self._catalogue])

        return await answered(context, self._streams, answer())

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:  # noqa: N802
        async def answer() -> pb.GetModelResponse:
            return pb.GetModelResponse(model=card(self._catalogue.get(request.model), self._limits))

        return await answered(context, self._streams, answer())

    async def SaveVersion(self, request: pb.SaveVersionRequest, context: Any) -> pb.SaveVersionResponse:  # noqa: N802
        async def answer() -> pb.SaveVersionResponse:
            served = self._allowed(request.model, Operation.VERSIONS)
            write = partial(self._versions.write, served.model, request.version, served.estimator.save, request.overwrite)
            return pb.SaveVersionResponse(version=_version(await self._alone(served, context, write)))

        return await answered(context, self._streams, answer())

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:  # noqa: N802
        async def answer() -> pb.ListVersionsResponse:
            served = self._allowed(request.model, Operation.VERSIONS)
            return pb.ListVersionsResponse(versions=[_version(version) for version in self._versions.list(served.model)])

        return await answered(context, self._streams, answer())

    async def RestoreVersion(self, request: pb.RestoreVersionRequest, context: Any) -> pb.RestoreVersionResponse:  # noqa: N802
        async def answer() -> pb.RestoreVersionResponse:
            served = self._allowed(request.model, Operation.VERSIONS)
            path = self._versions.path(served.model, request.version)
            await self._alone(served, context, partial(served.estimator.restore, path, request.version))
            return pb.RestoreVersionResponse(version=served.estimator.version)

        return await answered(context, self._streams, answer())

    async def ResetModel(self, request: pb.ResetModelRequest, context: Any) -> pb.ResetModelResponse:  # noqa: N802
        async def answer() -> pb.ResetModelResponse:
            served = self._allowed(request.model, Operation.VERSIONS)
            await self._alone(served, context, served.estimator.reset)
            return pb.ResetModelResponse(version=served.estimator.version)

        return await answered(context, self._streams, answer())

    async def CloneModel(self, request: pb.CloneModelRequest, context: Any) -> pb.CloneModelResponse:  # noqa: N802
        async def answer() -> pb.CloneModelResponse:
            origin = self._allowed(request.model, Operation.CLONE)
            with self._catalogue.reserving_clone(origin) as name:
                estimator = await self._alone(origin, context, origin.estimator.fresh)
                clone = self._catalogue.add_clone(origin, name, estimator)
            await self._on_change(name, True)
            return pb.CloneModelResponse(model=card(clone, self._limits))

        return await answered(context, self._streams, answer())

    async def DeleteClone(self, request: pb.DeleteCloneRequest, context: Any) -> pb.DeleteCloneResponse:  # noqa: N802
        async def answer() -> pb.DeleteCloneResponse:
            self._allowed(request.model, Operation.CLONE)
            self._catalogue.remove_clone(request.model)
            self._versions.forget(request.model)
            await self._on_change(request.model, False)
            return pb.DeleteCloneResponse()

        return await answered(context, self._streams, answer())

    def _allowed(self, name: str, operation: Operation) -> Served:
        served = self._catalogue.get(name)
        served.allow(operation)
        return served

    async def _alone(self, served: Served, context: Any, function: Callable[[], T]) -> T:
        """Runs a function on the runner's thread while nobody else uses the model, a fit of it in particular."""
        with self._scheduler.admit(served.model, context.peer()) as ticket:
            await self._scheduler.hold(ticket)
            result: T = await ticket.run(function)
            return result


def _version(version: Version) -> pb.ModelVersion:
    created = Timestamp()
    created.FromNanoseconds(round(version.created_s * 1e9))
    return pb.ModelVersion(name=version.name, created=created, nbytes=version.nbytes)
