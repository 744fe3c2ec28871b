"""Administration of grants; every method needs an admin's credentials."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal, TypeAlias, get_args

from gradwire.client.errors import InvalidCall
from gradwire.client.transport.connection import Connection
from gradwire.v1 import grants_pb2 as pb
from gradwire.v1 import grants_pb2_grpc, model_pb2
from gradwire.wire.names import ACCESS_LEVELS, ACCESS_NAMES, OPERATION_NAMES, OPERATIONS

Access: TypeAlias = Literal["labels", "scores", "gradients", "trainer"]

assert set(ACCESS_LEVELS) == set(get_args(Access))


@dataclass(frozen=True)
class Budget:
    """Most rows that a principal may use, forward and backward counted separately. None: no limit.

    Attributes:
        forward: Total forward rows.
        backward: Total backward rows; class gradients of ``k`` classes count ``k`` per row.
        window_s: Length of a window in whole seconds, for the next two limits.
        window_forward: Forward rows per window.
        window_backward: Backward rows per window.
        rows_per_s: Rows per second, forward and backward together, on each server.
    """

    forward: int | None = None
    backward: int | None = None
    window_s: int | None = None
    window_forward: int | None = None
    window_backward: int | None = None
    rows_per_s: float | None = None


@dataclass(frozen=True)
class Grant:
    """Access of one principal to one served name.

    Attributes:
        principal: The name of a token or certificate.
        model: The served name.
        access: "labels", "scores", "gradients" or "trainer".
        activations: With access gradients or trainer: activations too.
        operations: Only these operations, by the names of the estimator's methods; empty: all that ``access`` includes.
        decimals: With access scores: outputs are rounded to this many decimals.
        top_k: With access scores: only this many outputs of each row are shown.
        budget: Most rows.
        expires: When it ends, with a time zone; None: never.
    """

    principal: str
    model: str
    access: Access
    activations: bool = False
    operations: tuple[str, ...] = ()
    decimals: int | None = None
    top_k: int | None = None
    budget: Budget = Budget()
    expires: datetime | None = None


class Grants:
    """Grants of one server, for the admins in its configuration. Made by `Server.grants`.

    Every method raises NotGranted for other callers.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def put(self, grant: Grant) -> Grant:
        """Grants access, replacing the principal's previous grant for the model; used rows stay used.

        Raises:
            InvalidCall: The grant is not possible: for example the model is not served, or is served with less access.
        """
        request = pb.PutGrantRequest(grant=message_of(grant))
        return grant_of(self._connection.ask(lambda call: self._stub().PutGrant(request, **call), model=grant.model).grant)

    def revoke(self, principal: str, model: str) -> None:
        """Revokes access, from whichever source it was granted. Raises InvalidCall if there is none."""
        request = pb.RevokeGrantRequest(principal=principal, model=model)
        self._connection.ask(lambda call: self._stub().RevokeGrant(request, **call), again=False, model=model)

    def list(self, principal: str = "") -> list[Grant]:
        """Lists the grants in force, of one principal or of all."""
        request = pb.ListGrantsRequest(principal=principal)
        return [grant_of(message) for message in self._connection.ask(lambda call: self._stub().ListGrants(request, **call)).grants]

    def _stub(self) -> grants_pb2_grpc.GrantServiceStub:
        return grants_pb2_grpc.GrantServiceStub(self._connection.channel())


def message_of(grant: Grant) -> pb.Grant:
    """Makes the contract's message of a grant. Raises InvalidCall for wrong values."""
    if grant.access not in ACCESS_LEVELS:
        raise InvalidCall(f"access is {grant.access!r}; expected one of: {', '.join(ACCESS_LEVELS)}")
    if grant.expires is not None and grant.expires.tzinfo is None:
        raise InvalidCall(f"expires is {grant.expires}; it needs a time zone, for example datetime.timezone.utc")
    for name, rows in vars(grant.budget).items():
        if rows is not None and not 0 <= rows < 1 << 62:
            raise InvalidCall(f"{name} is {rows}; expected at least 0, and less than 2**62")
    if grant.decimals is not None and not 0 <= grant.decimals <= 15:
        raise InvalidCall(f"decimals is {grant.decimals}; expected 0 to 15")
    if grant.top_k is not None and not 1 <= grant.top_k < 1 << 32:
        raise InvalidCall(f"top_k is {grant.top_k}; expected at least 1")
    result = pb.Grant(
        principal=grant.principal,
        model=grant.model,
        access=ACCESS_LEVELS[grant.access],
        activations=grant.activations,
        operations=_numbers(grant.operations),
        decimals=grant.decimals,
        top_k=grant.top_k,
        budget=pb.GrantBudget(**{name: value for name, value in vars(grant.budget).items() if value is not None}),
    )
    if grant.expires is not None:
        result.expires.FromDatetime(grant.expires.astimezone(timezone.utc))
    return result


def grant_of(message: pb.Grant) -> Grant:
    """Reads a grant that a server sent."""
    budget = message.budget
    optional = ("forward", "backward", "window_forward", "window_backward")
    return Grant(
        principal=message.principal,
        model=message.model,
        access=ACCESS_NAMES.get(message.access, "labels"),  # type: ignore[arg-type]
        activations=message.activations,
        operations=tuple(OPERATION_NAMES.get(number, str(number)) for number in message.operations),
        decimals=message.decimals if message.HasField("decimals") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        budget=Budget(
            **{name: getattr(budget, name) for name in optional if budget.HasField(name)},
            window_s=int(budget.window_s) or None,
            rows_per_s=budget.rows_per_s or None,
        ),
        expires=message.expires.ToDatetime(timezone.utc) if message.HasField("expires") else None,
    )


def _numbers(operations: Iterable[str]) -> list[model_pb2.Operation]:
    unknown = [name for name in operations if name not in OPERATIONS]
    if unknown:
        raise InvalidCall(f"operations contains {unknown[0]!r}; expected names out of: {', '.join(OPERATIONS)}")
    return [OPERATIONS[name] for name in operations]
