"""Unary calls that read from a server: model cards and usage."""

from __future__ import annotations

from gradwire.client import arguments
from gradwire.client.card import ModelCard, card_of
from gradwire.client.transport.connection import Connection
from gradwire.client.usage import Usage, usage_of
from gradwire.v1 import model_pb2, usage_pb2
from gradwire.v1.model_pb2_grpc import ModelServiceStub
from gradwire.v1.usage_pb2_grpc import UsageServiceStub


def all_cards(connection: Connection) -> list[ModelCard]:
    """The cards of all models that this caller may use."""
    request = model_pb2.ListModelsRequest()
    reply = connection.ask(lambda options: ModelServiceStub(connection.channel()).ListModels(request, **options))
    return [card_of(message) for message in reply.models]


def card_named(connection: Connection, name: str) -> ModelCard:
    """The card of one served name. Raises UnknownModel."""
    request = model_pb2.GetModelRequest(model=arguments.name("name", name))
    reply = connection.ask(lambda options: ModelServiceStub(connection.channel()).GetModel(request, **options), model=name)
    return card_of(reply.model)


def usage_rows(connection: Connection, name: str = "", principal: str = "", everybody: bool = False) -> list[Usage]:
    """Rows used of one served name, or of all. As `Server.usage`."""
    name, principal = arguments.name("name", name), arguments.name("principal", principal)
    request = usage_pb2.GetUsageRequest(model=name, principal=principal, everybody=everybody)
    reply = connection.ask(lambda options: UsageServiceStub(connection.channel()).GetUsage(request, **options), model=name)
    return [usage_of(message) for message in reply.models]
