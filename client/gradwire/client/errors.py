"""Exceptions of the client.

    GradwireError
    ├── InvalidCall (ValueError)            a wrong argument; nothing was computed
    │   ├── ShapeError
    │   ├── DtypeError (also TypeError)
    │   ├── LabelError
    │   ├── LayerError
    │   └── TooLarge
    ├── NotFound (LookupError)
    │   ├── UnknownModel
    │   └── UnknownVersion
    ├── VersionExists
    ├── AccessError (PermissionError)
    │   ├── Unauthenticated                 no valid token or certificate
    │   └── NotGranted                      the caller's access does not include the operation
    ├── Unsupported (NotImplementedError)   the model lacks the operation, or it is not possible remotely
    ├── Exhausted
    │   ├── QueueFull                       the server is busy; retry after `retry_after_s`
    │   ├── BudgetSpent                     the budget has no rows left
    │   ├── RateLimited                     too many rows per second; retry after `retry_after_s`
    │   ├── OutOfMemory                     the device has no memory for so many rows; send fewer
    │   ├── OutOfDisk
    │   └── TooManyClones
    ├── Unavailable (ConnectionError)       no server answers, or the server is shutting down
    ├── CallTimeout (TimeoutError)
    ├── DataLoss                            bytes were corrupted in transit
    └── ServerError                         the model or the server failed
        └── ModelFailed

The table below maps the contract's reasons to these errors; an assertion keeps it complete.
"""

from __future__ import annotations

from typing import Any

import grpc

from gradwire.v1 import errors_pb2 as reasons
from gradwire.v1.errors_pb2 import ErrorReason
from gradwire.wire.errors import WireError
from gradwire.wire.status import Fault, fault_of


class GradwireError(Exception):
    """Base class of the client's errors.

    Attributes:
        reason: The contract's reason.
        retry_after_s: The server's retry hint in seconds; None if it gave none.
        field: The wrong part of the request; empty if the server did not name one.
        quota: The exhausted quota; empty if the server did not name one.
    """

    reason: ErrorReason = reasons.ERROR_REASON_UNSPECIFIED
    retry_after_s: float | None = None
    field: str = ""
    quota: str = ""


class InvalidCall(GradwireError, ValueError):
    """A wrong argument."""


class ShapeError(InvalidCall):
    """An array has a shape that the model does not accept."""


class DtypeError(InvalidCall, TypeError):
    """An array has a dtype that the model does not accept."""


class LabelError(InvalidCall):
    """Labels have an unknown form or are out of range."""


class LayerError(InvalidCall):
    """The model has no such layer."""


class TooLarge(InvalidCall):
    """An argument exceeds a limit, which the text names."""


class NotFound(GradwireError, LookupError):
    """Unknown name."""


class UnknownModel(NotFound):
    """The server does not serve that name to this caller."""


class UnknownVersion(NotFound):
    """The model has no such version."""


class VersionExists(GradwireError):
    """The model already has a version of that name."""


class AccessError(GradwireError, PermissionError):
    """The caller lacks the permission."""


class Unauthenticated(AccessError):
    """The server could not authenticate the caller."""


class NotGranted(AccessError):
    """The caller's access to the model does not include the operation."""


class Unsupported(GradwireError, NotImplementedError):
    """The model lacks the operation, or it is not possible remotely."""


class Exhausted(GradwireError):
    """A resource of the server or a budget is exhausted."""


class QueueFull(Exhausted):
    """The server's queue is full."""


class BudgetSpent(Exhausted):
    """The caller's budget has no rows left. The text says when it refills, if ever.

    Attributes:
        best: From `gradwire.client.attack.run_attack`: the best adversarial row so far for each row; None from other calls.
        finished: Likewise: marks rows whose attack was completed.
        fooled: Likewise: marks other rows whose best query fooled the model.
    """

    best: Any = None
    finished: Any = None
    fooled: Any = None


class RateLimited(Exhausted):
    """The caller sent too many rows per second."""


class OutOfMemory(Exhausted):
    """The device has no memory for so many rows at once."""


class OutOfDisk(Exhausted):
    """The server's disk is full."""


class TooManyClones(Exhausted):
    """The model has as many clones as the server allows."""


class Unavailable(GradwireError, ConnectionError):
    """No server answers, or the server is shutting down.

    Attributes:
        unseen: True if certainly no server has begun the call: the server was draining, or had ended the stream between two
            calls because it was idle or old.
    """

    unseen: bool = False


class CallTimeout(GradwireError, TimeoutError):
    """The call exceeded its time limit."""


class DataLoss(GradwireError):
    """Bytes were corrupted in transit."""


class ServerError(GradwireError):
    """The server failed."""


class ModelFailed(ServerError):
    """The owner's model, loss or defence raised an exception."""


_BY_REASON: dict[ErrorReason, type[GradwireError]] = {
    reasons.ERROR_REASON_BAD_FRAME: InvalidCall,
    reasons.ERROR_REASON_BAD_TENSOR: InvalidCall,
    reasons.ERROR_REASON_BAD_SHAPE: ShapeError,
    reasons.ERROR_REASON_BAD_DTYPE: DtypeError,
    reasons.ERROR_REASON_BAD_LABEL: LabelError,
    reasons.ERROR_REASON_BAD_LAYER: LayerError,
    reasons.ERROR_REASON_BAD_VALUE: InvalidCall,
    reasons.ERROR_REASON_EMPTY_BATCH: ShapeError,
    reasons.ERROR_REASON_TOO_LARGE: TooLarge,
    reasons.ERROR_REASON_UNKNOWN_MODEL: UnknownModel,
    reasons.ERROR_REASON_UNKNOWN_VERSION: UnknownVersion,
    reasons.ERROR_REASON_VERSION_EXISTS: VersionExists,
    reasons.ERROR_REASON_UNAUTHENTICATED: Unauthenticated,
    reasons.ERROR_REASON_NOT_GRANTED: NotGranted,
    reasons.ERROR_REASON_QUEUE_FULL: QueueFull,
    reasons.ERROR_REASON_BUDGET_SPENT: BudgetSpent,
    reasons.ERROR_REASON_RATE_LIMITED: RateLimited,
    reasons.ERROR_REASON_OUT_OF_MEMORY: OutOfMemory,
    reasons.ERROR_REASON_OUT_OF_DISK: OutOfDisk,
    reasons.ERROR_REASON_TOO_MANY_CLONES: TooManyClones,
    reasons.ERROR_REASON_UNSUPPORTED: Unsupported,
    reasons.ERROR_REASON_DRAINING: Unavailable,
    reasons.ERROR_REASON_HUNG: Unavailable,
    reasons.ERROR_REASON_REPLICA_LOST: Unavailable,
    reasons.ERROR_REASON_STORE_UNAVAILABLE: Unavailable,
    reasons.ERROR_REASON_TIMEOUT: CallTimeout,
    reasons.ERROR_REASON_STALLED: CallTimeout,
    reasons.ERROR_REASON_CHECKSUM: DataLoss,
    reasons.ERROR_REASON_MODEL_FAILED: ModelFailed,
    reasons.ERROR_REASON_SERVER_FAILED: ServerError,
}
assert set(_BY_REASON) == set(ErrorReason.values()) - {reasons.ERROR_REASON_UNSPECIFIED}

_BY_CODE: dict[grpc.StatusCode, type[GradwireError]] = {
    # Statuses without a gradwire reason: from gRPC itself or from a proxy.
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # This client has not cancelled: the connection was closed, or the server is shutting down.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: CallTimeout,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: NotGranted,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exhausted,
    grpc.StatusCode.DATA_LOSS: DataLoss,
}


def error_of(error: grpc.RpcError, address: str, shows_no_certificate: bool = False) -> GradwireError:
    """Returns the exception for a failed gRPC call.

    Args:
        error: As gRPC raised it.
        address: The server's address, for the text.
        shows_no_certificate: Whether the call used TLS without a client certificate.
    """
    fault = fault_of(error.code(), error.details() or "", error.trailing_metadata())
    if fault.reason != reasons.ERROR_REASON_UNSPECIFIED:
        return _with(_BY_REASON[fault.reason](fault.text), fault)
    # From a proxy whose server was lost in the middle of a call; gRPC itself uses UNAVAILABLE.
    gone = fault.code is grpc.StatusCode.INTERNAL and "RST_STREAM" in fault.text
    kind = Unavailable if gone else _BY_CODE.get(fault.code, ServerError)
    hint = f"no gradwire server answers at {address}" if kind is Unavailable else f"the call to {address} failed"
    if kind is Unavailable and shows_no_certificate:
        # TLS gives the client no reason: the server closes the connection.
        hint += "; if the server requires a client certificate, pass connect(address, certificate=...)"
    return _with(kind(f"{hint}: {fault.code.name}: {fault.text}"), fault)


def error_of_wire(error: WireError) -> GradwireError:
    """Returns the exception for an array that cannot be sent or an answer that cannot be read."""
    result = _BY_REASON.get(error.reason, InvalidCall)(str(error))
    result.reason = error.reason
    return result


def _with(error: GradwireError, fault: Fault) -> GradwireError:
    error.reason = fault.reason
    error.retry_after_s = fault.retry_after_s
    error.field = fault.field
    error.quota = fault.quota
    if isinstance(error, Unavailable):
        error.unseen = fault.reason == reasons.ERROR_REASON_DRAINING
    return error
