"""Versions of a model's weights, and clones of the model."""

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
    """Saved weights: their name, time and size on the server's disk."""

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
        """Saves the current weights. Never retried: a second attempt would find the version of the first.

        Args:
            version: The version's name; not a path.
            overwrite: Replace a version of that name.

        Returns:
            The saved version.

        Raises:
            InvalidCall, VersionExists, OutOfDisk, NotGranted, Unsupported
        """
        version = arguments.name("version", version)
        request = pb.SaveVersionRequest(model=self._model, version=version, overwrite=bool(overwrite))
        return _version(self._ask("SaveVersion", request, again=False).version)

    def list(self) -> builtins.list[Version]:
        """Lists the saved versions, oldest first. Raises NotGranted, Unsupported."""
        return [_version(message) for message in self._ask("ListVersions", pb.ListVersionsRequest(model=self._model)).versions]

    def restore(self, version: str) -> None:
        """Restores saved weights. Raises UnknownVersion, InvalidCall, NotGranted, Unsupported."""
        version = arguments.name("version", version)
        self._ask("RestoreVersion", pb.RestoreVersionRequest(model=self._model, version=version))

    def reset(self) -> None:
        """Restores the weights that the server loaded at its start. Raises NotGranted, Unsupported."""
        self._ask("ResetModel", pb.ResetModelRequest(model=self._model))

    def clone(self) -> ModelCard:
        """Makes an untrained clone and returns its card. Raises TooManyClones, NotGranted, Unsupported."""
        return card_of(self._ask("CloneModel", pb.CloneModelRequest(model=self._model), again=False).model)

    def delete_clone(self) -> None:
        """Deletes this model, a clone. Raises UnknownModel; NotGranted if it is not a clone."""
        self._ask("DeleteClone", pb.DeleteCloneRequest(model=self._model), again=False)

    def _ask(self, method: str, request: Any, again: bool = True) -> Any:
        def unary(options: dict[str, Any]) -> Any:
            return getattr(ModelServiceStub(self._connection.channel()), method)(request, **options)

        return self._connection.ask(unary, again=again, model=self._model)


def _version(message: pb.ModelVersion) -> Version:
    return Version(message.name, message.created.ToDatetime(tzinfo=timezone.utc), message.nbytes)
