"""Everything that a call can raise.

    GradwireError
    ├── InvalidCall (ValueError)            what was passed is wrong; nothing was computed
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
    │   ├── Unauthenticated                 no token, or a wrong one
    │   └── NotGranted                      this name does not give that operation
    ├── Unsupported (NotImplementedError)   the model cannot do that, or it cannot be done remotely
    ├── Exhausted
    │   ├── QueueFull                       the server has too much to do; `retry_after_s` says when to come back
    │   ├── BudgetSpent                     the caller's rows are used up
    │   ├── RateLimited
    │   ├── OutOfMemory                     the server cannot hold so many rows; send fewer
    │   ├── OutOfDisk
    │   └── TooManyClones
    ├── Unavailable (ConnectionError)       no server there, or one that is about to end
    ├── CallTimeout (TimeoutError)
    ├── DataLoss                            bytes were damaged on the way
    └── ServerError                         the model or the server failed
        └── ModelFailed

The table below says which error stands for which reason of the contract; that every reason is in it holds at import.
"""

from __future__ import annotations

from typing import Any

import grpc

from gradwire.v1 import errors_pb2 as reasons
from gradwire.v1.errors_pb2 import ErrorReason
from gradwire.wire.errors import WireError
from gradwire.wire.status import Fault, fault_of


class GradwireError(Exception):
    """Any error of a call.

    Attributes:
        reason: The contract's.
        retry_after_s: When the server says that trying again may help.
        field: The part of the request that the server says is wrong; empty if it does not say.
        quota: What the server says is used up; empty if it does not say.
    """

    reason: ErrorReason = reasons.ERROR_REASON_UNSPECIFIED
    retry_after_s: float | None = None
    field: str = ""
    quota: str = ""


class InvalidCall(GradwireError, ValueError):
    """What was passed is wrong."""


class ShapeError(InvalidCall):
    """An array's axes are not what the model takes."""


class DtypeError(InvalidCall, TypeError):
    """An array's elements are not what the model takes."""


class LabelError(InvalidCall):
    """Labels are not in a form that is known, or out of range."""


class LayerError(InvalidCall):
    """There is no such layer."""


class TooLarge(InvalidCall):
    """Something is over a limit that the text names."""


class NotFound(GradwireError, LookupError):
    """There is nothing under that name."""


class UnknownModel(NotFound):
    """Nothing is served under that name."""


class UnknownVersion(NotFound):
    """The model has no such version."""


class VersionExists(GradwireError):
    """The model has a version of that name already."""


class AccessError(GradwireError, PermissionError):
    """The caller may not do that."""


class Unauthenticated(AccessError):
    """The server does not know who calls."""


class NotGranted(AccessError):
    """The name is served with less access than that."""


class Unsupported(GradwireError, NotImplementedError):
    """The model cannot do that, or it cannot be done remotely."""


class Exhausted(GradwireError):
    """Something is used up."""


class QueueFull(Exhausted):
    """The server has as many calls as it takes."""


class BudgetSpent(Exhausted):
    """The caller's rows are used up. The text says when they refill, or that they do not.

    Attributes:
        best: From `gradwire.client.attack.run_attack`, the best of each row so far; None from other calls.
        finished: Likewise, which rows were attacked to the end.
        fooled: Likewise, for which of the others the model was seen to be fooled.
    """

    best: Any = None
    finished: Any = None
    fooled: Any = None


class RateLimited(Exhausted):
    """Too many rows in too short a time."""


class OutOfMemory(Exhausted):
    """The server cannot hold so many rows at once."""


class OutOfDisk(Exhausted):
    """The server's disk is full."""


class TooManyClones(Exhausted):
    """The model has as many clones as the server allows."""


class Unavailable(GradwireError, ConnectionError):
    """There is no server, or it is about to end.

    Attributes:
        unseen: Whether it is known that no server has begun with the call: the one that it was sent to was leaving, or had ended
            the stream between two calls because it was idle or old.
    """

    unseen: bool = False


class CallTimeout(GradwireError, TimeoutError):
    """The call took longer than it was given."""


class DataLoss(GradwireError):
    """Bytes were damaged on the way."""


class ServerError(GradwireError):
    """The server failed."""


class ModelFailed(ServerError):
    """The owner's model, loss or defence raised."""


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
    # For statuses that no gradwire server sent: gRPC's own, a proxy's.
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # Nobody here has cancelled: a connection that was closed, or a server that is about to end.
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: CallTimeout,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: NotGranted,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exhausted,
    grpc.StatusCode.DATA_LOSS: DataLoss,
}


def error_of(error: grpc.RpcError, address: str, shows_no_certificate: bool = False) -> GradwireError:
    """The exception for a call that gRPC says has failed; over TLS the caller may have shown no certificate of its own."""
    fault = fault_of(error.code(), error.details() or "", error.trailing_metadata())
    if fault.reason != reasons.ERROR_REASON_UNSPECIFIED:
        return _with(_BY_REASON[fault.reason](fault.text), fault)
    # A proxy's word for a server that has gone in the middle of a call; gRPC itself says UNAVAILABLE.
    gone = fault.code is grpc.StatusCode.INTERNAL and "RST_STREAM" in fault.text
    kind = Unavailable if gone else _BY_CODE.get(fault.code, ServerError)
    hint = f"no gradwire server answers at {address}" if kind is Unavailable else f"the call to {address} failed"
    if kind is Unavailable and shows_no_certificate:
        # TLS tells a client nothing of it: the server hangs up.
        hint += ", or one that wants a client's certificate: connect(address, certificate=...)"
    return _with(kind(f"{hint}: {fault.code.name}: {fault.text}"), fault)


def error_of_wire(error: WireError) -> GradwireError:
    """The exception for something that cannot be sent, or that makes no sense as an answer."""
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
