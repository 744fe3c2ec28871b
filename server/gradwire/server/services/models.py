"""Cards, versions and clones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from gradwire.backends.capabilities import Operation
from gradwire.server.catalogue.cards import card
from gradwire.server.catalogue.catalogue import Catalogue
from gradwire.server.catalogue.granted import Granted
from gradwire.server.catalogue.versions import Version, VersionStore
from gradwire.server.config.limits import Limits
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.transport.streams import OpenStreams
from gradwire.server.transport.unary import answered
from gradwire.server.trust.ledger import Ledger
from gradwire.v1 import model_pb2 as pb
from gradwire.v1 import model_pb2_grpc
from gradwire.wire.tensors import MAX_NAME

T = TypeVar("T")


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Serves ModelService.

    Args:
        catalogue: What is served.
        scheduler: Where work goes.
        streams: Where open streams are kept.
        versions: Where versions are kept.
        limits: What is taken from callers.
        ledger: Where calls are written down.
        on_change: Told when clones come (True) and go (False), by name.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        scheduler: Scheduler,
        streams: OpenStreams,
        versions: VersionStore,
        limits: Limits,
        ledger: Ledger,
        on_change: Callable[[str, bool], Awaitable[None]],
    ) -> None:
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._streams = streams
        self._versions = versions
        self._limits = limits
        self._ledger = ledger
        self._on_change = on_change

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:  # noqa: N802
        async def answer() -> pb.ListModelsResponse:
            found = self._catalogue.of(self._streams.identity.principal(context))
            return pb.ListModelsResponse(models=[card(granted, self._limits) for granted in found])

        return await answered(context, self._streams, answer())

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:  # noqa: N802
        async def answer() -> pb.GetModelResponse:
            granted = self._catalogue.get(request.model, self._streams.identity.principal(context))
            return pb.GetModelResponse(model=card(granted, self._limits))

        return await answered(context, self._streams, answer())

    async def SaveVersion(self, request: pb.SaveVersionRequest, context: Any) -> pb.SaveVersionResponse:  # noqa: N802
        async def answer() -> pb.SaveVersionResponse:
            with self._call(context, request.model, Operation.VERSIONS, "save") as granted:
                write = partial(self._versions.write, granted.model, request.version, granted.estimator.save, request.overwrite)
                return pb.SaveVersionResponse(version=_version(await self._alone(granted, context, write)))

        return await answered(context, self._streams, answer())

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:  # noqa: N802
        async def answer() -> pb.ListVersionsResponse:
            with self._call(context, request.model, Operation.VERSIONS, "versions") as granted:
                return pb.ListVersionsResponse(versions=[_version(version) for version in self._versions.list(granted.model)])

        return await answered(context, self._streams, answer())

    async def RestoreVersion(self, request: pb.RestoreVersionRequest, context: Any) -> pb.RestoreVersionResponse:  # noqa: N802
        async def answer() -> pb.RestoreVersionResponse:
            with self._call(context, request.model, Operation.VERSIONS, "restore") as granted:
                path = self._versions.path(granted.model, request.version)
                await self._alone(granted, context, partial(granted.estimator.restore, path, request.version))
                return pb.RestoreVersionResponse(version=granted.estimator.version)

        return await answered(context, self._streams, answer())

    async def ResetModel(self, request: pb.ResetModelRequest, context: Any) -> pb.ResetModelResponse:  # noqa: N802
        async def answer() -> pb.ResetModelResponse:
            with self._call(context, request.model, Operation.VERSIONS, "reset") as granted:
                await self._alone(granted, context, granted.estimator.reset)
                return pb.ResetModelResponse(version=granted.estimator.version)

        return await answered(context, self._streams, answer())

    async def CloneModel(self, request: pb.CloneModelRequest, context: Any) -> pb.CloneModelResponse:  # noqa: N802
        async def answer() -> pb.CloneModelResponse:
            with (
                self._call(context, request.model, Operation.CLONE, "clone") as origin,
                self._catalogue.reserving_clone(origin) as name,
            ):
                estimator = await self._alone(origin, context, origin.estimator.untrained_clone)
                # Of a clone of that name, somebody else's perhaps, that ended with an earlier server.
                self._versions.forget(name)
                clone = self._catalogue.add_clone(origin, name, estimator)
            await self._on_change(name, True)
            return pb.CloneModelResponse(model=card(clone, self._limits))

        return await answered(context, self._streams, answer())

    async def DeleteClone(self, request: pb.DeleteCloneRequest, context: Any) -> pb.DeleteCloneResponse:  # noqa: N802
        async def answer() -> pb.DeleteCloneResponse:
            with self._call(context, request.model, Operation.CLONE, "delete_clone") as clone:
                self._catalogue.remove_clone(clone)
            self._versions.forget(request.model)
            await self._on_change(request.model, False)
            return pb.DeleteCloneResponse()

        return await answered(context, self._streams, answer())

    @contextmanager
    def _call(self, context: Any, name: str, operation: Operation, called: str) -> Iterator[Granted]:
        """What the caller has of a name, for a call that needs an operation and is written down."""
        principal = self._streams.identity.principal(context)
        with self._ledger.entry(principal, called) as entry:
            entry.model = name[:MAX_NAME]
            entry.granted = granted = self._catalogue.get(name, principal)
            granted.allow(operation)
            yield granted

    async def _alone(self, granted: Granted, context: Any, function: Callable[[], T]) -> T:
        """Runs a function on the runner's thread while nobody else uses the model, a fit of it in particular."""
        with self._scheduler.admit(granted.model, context.peer()) as ticket:
            await self._scheduler.hold(ticket)
            done: asyncio.Future[T] = ticket.submit(function, {}, {})
            try:
                return await asyncio.shield(done)
            except asyncio.CancelledError:
                # What has begun cannot be taken back: the model is this call's until it is done.
                while not self._scheduler.withdraw(ticket) and not done.done():
                    with suppress(asyncio.CancelledError, Exception):
                        await asyncio.shield(done)
                raise


def _version(version: Version) -> pb.ModelVersion:
    created = Timestamp()
    created.FromNanoseconds(round(version.created_s * 1e9))
    return pb.ModelVersion(name=version.name, created=created, nbytes=version.nbytes)
