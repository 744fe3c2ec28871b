"""Conversion of grants to the contract's messages and back."""

from __future__ import annotations

from datetime import timezone

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError

from gradwire.backends.errors import InvalidValue
from gradwire.server.trust.grants.grant import Budget, Grant
from gradwire.server.values.contract import CONTRACT, OPERATIONS
from gradwire.v1 import grants_pb2 as pb

_LEVELS = {number: level for level, number in CONTRACT.items()}
_OPERATIONS = {number: operation for operation, number in OPERATIONS.items()}
_BUDGET = ("forward", "backward", "window_forward", "window_backward")


def message_of(grant: Grant) -> pb.Grant:
    """Makes the message of a grant."""
    result = pb.Grant(
        principal=grant.principal,
        model=grant.model,
        access=CONTRACT[grant.access],
        activations=grant.activations,
        operations=sorted(OPERATIONS[operation] for operation in grant.operations or ()),
        decimals=grant.decimals,
        top_k=grant.top_k,
        budget=pb.GrantBudget(
            window_s=grant.budget.window_s or 0,
            rows_per_s=grant.budget.rows_per_s or 0,
            **{key: getattr(grant.budget, key) for key in _BUDGET},
        ),
    )
    if grant.expires is not None:
        result.expires.FromDatetime(grant.expires.astimezone(timezone.utc))
    return result


def grant_of_message(message: pb.Grant) -> Grant:
    """Makes the grant of a message. Raises InvalidValue."""
    if message.access not in _LEVELS:
        raise InvalidValue(f"access number {message.access} is not in the contract; expected one of: {', '.join(_LEVELS.values())}")
    unknown = [number for number in message.operations if number not in _OPERATIONS]
    if unknown:
        raise InvalidValue(f"operation number {unknown[0]} is not in the contract")
    given = message.budget
    if not given.window_s.is_integer():
        raise InvalidValue(f"budget.window_s is {given.window_s}; expected whole seconds")
    try:
        expires = message.expires.ToDatetime(timezone.utc) if message.HasField("expires") else None
    except (ValueError, OverflowError):
        raise InvalidValue(f"expires is {message.expires.seconds} s since 1970; expected a time before the year 10000") from None
    try:
        return Grant(
            principal=message.principal,
            model=message.model,
            access=_LEVELS[message.access],
            activations=message.activations,
            operations=frozenset(_OPERATIONS[number] for number in message.operations) or None,
            decimals=message.decimals if message.HasField("decimals") else None,
            top_k=message.top_k if message.HasField("top_k") else None,
            budget=Budget(
                window_s=int(given.window_s) or None,
                rows_per_s=given.rows_per_s or None,
                **{key: getattr(given, key) for key in _BUDGET if given.HasField(key)},
            ),
            expires=expires,
        )
    except ValidationError as e:
        problems = (f"{'.'.join(map(str, p['loc'])) or 'grant'}: {p['msg'].removeprefix('Value error, ')}" for p in e.errors())
        raise InvalidValue("; ".join(problems)) from e


def timestamp(seconds: float) -> Timestamp:
    """Makes a timestamp from seconds since 1970."""
    result = Timestamp()
    result.FromMicroseconds(round(seconds * 1e6))
    return result
