"""ModelService: cards, versions and clones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from gradwire.backends.capabilities import Operation
from gradwire.server.catalogue.admitted import Admitted
from gradwire.server.catalogue.cards import card
from gradwire.server.catalogue.catalogue import Catalogue
from gradwire.server.catalogue.versions import Version, VersionStore
from gradwire.server.config.limits import Limits
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.transport.streams import OpenStreams
from gradwire.server.transport.unary import answered
from gradwire.server.trust.identity.guard import caller
from gradwire.server.trust.recorder import CallRecorder
from gradwire.v1 import model_pb2 as pb
from gradwire.v1 import model_pb2_grpc
from gradwire.wire.tensors import MAX_NAME

T = TypeVar("T")


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Serves ModelService.

    Args:
        catalogue: Served names.
        scheduler: Gives exclusive locks and computes.
        streams: Open streams, which say whether the server drains.
        versions: Versions on disk.
        limits: Limits on callers.
        recorder: Records calls in the ledger.
        on_change: Called with a clone's name and True when it is made, False when it is deleted.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        scheduler: Scheduler,
        streams: OpenStreams,
        versions: VersionStore,
        limits: Limits,
        recorder: CallRecorder,
        on_change: Callable[[str, bool], Awaitable[None]],
    ) -> None:
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._streams = streams
        self._versions = versions
        self._limits = limits
        self._recorder = recorder
        self._on_change = on_change

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:  # noqa: N802
        """Answers the cards of all models that the caller may use."""

        async def answer() -> pb.ListModelsResponse:
            found = self._catalogue.of(caller())
            return pb.ListModelsResponse(models=[card(admitted, self._limits) for admitted in found])

        return await answered(context, self._streams, answer())

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:  # noqa: N802
        """Answers the card of one model."""

        async def answer() -> pb.GetModelResponse:
            admitted = self._catalogue.admit(request.model, caller())
            return pb.GetModelResponse(model=card(admitted, self._limits))

        return await answered(context, self._streams, answer())

    async def SaveVersion(self, request: pb.SaveVersionRequest, context: Any) -> pb.SaveVersionResponse:  # noqa: N802
        """Saves the weights as a version."""

        async def answer() -> pb.SaveVersionResponse:
            with self._call(request.model, Operation.VERSIONS, "save") as admitted:
                write = partial(self._versions.write, admitted.model, request.version, admitted.estimator.save, request.overwrite)
                return pb.SaveVersionResponse(version=_version(await self._alone(admitted, context, write)))

        return await answered(context, self._streams, answer())

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Any) -> pb.ListVersionsResponse:  # noqa: N802
        """Answers the versions of a model."""

        async def answer() -> pb.ListVersionsResponse:
            with self._call(request.model, Operation.VERSIONS, "versions") as admitted:
                return pb.ListVersionsResponse(versions=[_version(version) for version in self._versions.list(admitted.model)])

        return await answered(context, self._streams, answer())

    async def RestoreVersion(self, request: pb.RestoreVersionRequest, context: Any) -> pb.RestoreVersionResponse:  # noqa: N802
        """Restores the weights of a version."""

        async def answer() -> pb.RestoreVersionResponse:
            with self._call(request.model, Operation.VERSIONS, "restore") as admitted:
                path = self._versions.path(admitted.model, request.version)
                await self._alone(admitted, context, partial(admitted.estimator.restore, path, request.version))
                return pb.RestoreVersionResponse(version=admitted.estimator.version)

        return await answered(context, self._streams, answer())

    async def ResetModel(self, request: pb.ResetModelRequest, context: Any) -> pb.ResetModelResponse:  # noqa: N802
        """Restores the weights that the model was loaded with."""

        async def answer() -> pb.ResetModelResponse:
            with self._call(request.model, Operation.VERSIONS, "reset") as admitted:
                await self._alone(admitted, context, admitted.estimator.reset)
                return pb.ResetModelResponse(version=admitted.estimator.version)

        return await answered(context, self._streams, answer())

    async def CloneModel(self, request: pb.CloneModelRequest, context: Any) -> pb.CloneModelResponse:  # noqa: N802
        """Makes an untrained clone of a model, for the caller alone."""

        async def answer() -> pb.CloneModelResponse:
            with (
                self._call(request.model, Operation.CLONE, "clone") as origin,
                self._catalogue.reserving_clone(origin) as name,
            ):
                estimator = await self._alone(origin, context, origin.estimator.untrained_clone)
                # Versions of another clone of that name, deleted with an earlier server.
                self._versions.forget(name)
                clone = self._catalogue.add_clone(origin, name, estimator)
            await self._on_change(name, True)
            return pb.CloneModelResponse(model=card(clone, self._limits))

        return await answered(context, self._streams, answer())

    async def DeleteClone(self, request: pb.DeleteCloneRequest, context: Any) -> pb.DeleteCloneResponse:  # noqa: N802
        """Deletes one of the caller's clones."""

        async def answer() -> pb.DeleteCloneResponse:
            with self._call(request.model, Operation.CLONE, "delete_clone") as clone:
                self._catalogue.remove_clone(clone)
            self._versions.forget(request.model)
            await self._on_change(request.model, False)
            return pb.DeleteCloneResponse()

        return await answered(context, self._streams, answer())

    @contextmanager
    def _call(self, name: str, operation: Operation, called: str) -> Iterator[Admitted]:
        """Admits a call that needs an operation, and records it in the ledger."""
        principal = caller()
        with self._recorder.entry(principal, called) as entry:
            entry.model = name[:MAX_NAME]
            entry.admitted = admitted = self._catalogue.admit(name, principal)
            admitted.check(operation)
            yield admitted

    async def _alone(self, admitted: Admitted, context: Any, function: Callable[[], T]) -> T:
        """Runs a function on the runner's thread under the exclusive lock of the model."""
        with self._scheduler.admit(admitted.model, context.peer()) as call:
            await self._scheduler.lock(call)
            done: asyncio.Future[T] = call.submit(function, {}, {})
            try:
                return await asyncio.shield(done)
            except asyncio.CancelledError:
                # Work that has begun cannot be cancelled: the call keeps the lock until it is done.
                while not self._scheduler.withdraw(call) and not done.done():
                    with suppress(asyncio.CancelledError, Exception):
                        await asyncio.shield(done)
                raise


def _version(version: Version) -> pb.ModelVersion:
    created = Timestamp()
    created.FromNanoseconds(round(version.created_s * 1e9))
    return pb.ModelVersion(name=version.name, created=created, nbytes=version.nbytes)
