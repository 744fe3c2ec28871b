"""Versions of a model's weights, and clones of it."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from gradwire.client import arguments
from gradwire.client.card import ModelCard, card_of
from gradwire.client.transport.connection import Connection
from gradwire.v1 import model_pb2 as pb
from gradwire.v1.model_pb2_grpc import ModelServiceStub


@dataclass(frozen=True)
class Version:
    """Saved weights: their name, when they were saved, and their size on the server's disk."""

    name: str
    created: datetime
    nbytes: int


class Versions:
    """The versions of one model.

    Args:
        connection: To the model's server.
        model: Its served name.
    """

    def __init__(self, connection: Connection, model: str) -> None:
        self._connection = connection
        self._model = model

    def save(self, version: str, overwrite: bool) -> Version:
        """Keeps the present weights. Not made again by itself: a second try would find the first one's version.

        Args:
            version: Its name; not a path.
            overwrite: Replace a version of that name.

        Returns:
            What was saved.

        Raises:
            InvalidCall, VersionExists, OutOfDisk, NotGranted, Unsupported
        """
        version = arguments.name("version", version)
        request = pb.SaveVersionRequest(model=self._model, version=version, overwrite=bool(overwrite))
        return _version(self._ask("SaveVersion", request, again=False).version)

    def list(self) -> builtins.list[Version]:
        """What has been saved, oldest first. Raises NotGranted, Unsupported."""
        return [_version(message) for message in self._ask("ListVersions", pb.ListVersionsRequest(model=self._model)).versions]

    def restore(self, version: str) -> None:
        """Brings saved weights back. Raises UnknownVersion, InvalidCall, NotGranted, Unsupported."""
        version = arguments.name("version", version)
        self._ask("RestoreVersion", pb.RestoreVersionRequest(model=self._model, version=version))

    def reset(self) -> None:
        """Brings the weights back that the model was served with at start. Raises NotGranted, Unsupported."""
        self._ask("ResetModel", pb.ResetModelRequest(model=self._model))

    def clone(self) -> ModelCard:
        """Makes a clone that has not been fitted, and returns its card. Raises TooManyClones, NotGranted, Unsupported."""
        return card_of(self._ask("CloneModel", pb.CloneModelRequest(model=self._model), again=False).model)

    def delete_clone(self) -> None:
        """Ends this model, which is a clone. Raises UnknownModel; NotGranted if it is none."""
        self._ask("DeleteClone", pb.DeleteCloneRequest(model=self._model), again=False)

    def _ask(self, method: str, request: Any, again: bool = True) -> Any:
        def unary(options: dict[str, Any]) -> Any:
            return getattr(ModelServiceStub(self._connection.channel()), method)(request, **options)

        return self._connection.ask(unary, again=again, model=self._model)


def _version(message: pb.ModelVersion) -> Version:
    return Version(message.name, message.created.ToDatetime(tzinfo=timezone.utc), message.nbytes)
