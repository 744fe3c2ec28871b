"""``gradwire health``: readiness of a server, for probes of containers, load balancers and scripts.

Exit codes: 0, ready; 1, the server answers but is not ready; 2, a wrong argument, name or permission; 3, no server answers.
"""

from __future__ import annotations

from typing import Annotated

import grpc
import typer
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from rich.console import Console
from rich.markup import escape

from gradwire.client.commands.exit_codes import error_exit
from gradwire.client.commands.options import Address, Certificate, Key, Tls, Token, TokenFile, connected
from gradwire.client.errors import GradwireError, Unauthenticated, Unavailable
from gradwire.client.server import Server

_CHECK = "/grpc.health.v1.Health/Check"
_STATES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_SERVING = 1


def health(
    address: Address,
    service: Annotated[str, typer.Option(help="A model's name, or a service of the contract.", show_default="the server")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing if it is ready.")] = False,
    token: Token = None,
    token_file: TokenFile = None,
    tls: Tls = None,
    certificate: Certificate = None,
    key: Key = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Time limit of the call in seconds.")] = 3.0,
) -> None:
    """Check whether a server or one of its models is ready, over gRPC's health service (grpc.health.v1).

    Exit code 0: SERVING; 1: it answers but is not ready; 2: a wrong argument; 3: no server answers.

    Example: gradwire health 127.0.0.1:50051 --service digits
    """
    with connected(address, token, token_file, tls, certificate, key, timeout_s) as server:
        state = state_of(server, service)
    what = f"{service!r} at {address}" if service else address
    if state != _SERVING:
        raise error_exit(f"{what} is {_STATES.get(state, state)}", 1)
    if not quiet:
        Console(soft_wrap=True).print(f"{escape(what)} is [green]SERVING[/]", highlight=False)


def state_of(server: Server, service: str) -> int:
    """Returns the ServingStatus of a service by ``grpc.health.v1``; SERVICE_UNKNOWN for an unknown one.

    Never retried: probes repeat anyway.

    Raises:
        Unavailable, CallTimeout: No server answers, or it lacks the health service.
        Unauthenticated: A proxy in front of the server requires credentials.
    """
    # The two messages have one field each and equal these on the wire, so that no generated code is needed.
    call = server.connection.channel().unary_unary(_CHECK, StringValue.SerializeToString, Int32Value.FromString)
    try:
        answer: Int32Value = server.connection.ask(
            lambda options: call(StringValue(value=service), **options), again=False, model=service
        )
    except Unauthenticated:
        raise
    except GradwireError as e:
        cause = e.__context__
        code = cause.code() if isinstance(cause, grpc.RpcError) else None
        if code is grpc.StatusCode.NOT_FOUND:
            return 3
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise Unavailable(f"the gRPC server at {server.address} lacks grpc.health.v1; is it a gradwire server?") from None
        raise
    return answer.value
