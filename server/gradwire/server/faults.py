"""Table of the gRPC status and reason of every error that a call can end with."""

from __future__ import annotations

import errno

from grpc import StatusCode

from gradwire.backends import errors as backend
from gradwire.server.errors import (
    BadName,
    BudgetSpent,
    Draining,
    Hung,
    NotGranted,
    QueueFull,
    RateLimited,
    ReplicaLost,
    Stalled,
    StoreUnavailable,
    TimedOut,
    TooManyClones,
    Unauthenticated,
    UnknownModel,
    UnknownVersion,
    VersionExists,
)
from gradwire.v1 import errors_pb2 as reasons
from gradwire.v1.errors_pb2 import ErrorReason
from gradwire.wire.errors import WireError
from gradwire.wire.status import Fault

_TABLE: dict[type[Exception], tuple[StatusCode, ErrorReason, str]] = {
    # error: status, reason, field of the request
    backend.InvalidShape: (StatusCode.INVALID_ARGUMENT, reasons.ERROR_REASON_BAD_SHAPE, "tensors"),
    backend.InvalidDtype: (StatusCode.INVALID_ARGUMENT, reasons.ERROR_REASON_BAD_DTYPE, "tensors"),
    backend.InvalidLabel: (StatusCode.INVALID_ARGUMENT, reasons.ERROR_REASON_BAD_LABEL, "tensors"),
    backend.InvalidLayer: (StatusCode.INVALID_ARGUMENT, reasons.ERROR_REASON_BAD_LAYER, "open.layer"),
    backend.InvalidValue: (StatusCode.INVALID_ARGUMENT, reasons.ERROR_REASON_BAD_VALUE, "open"),
    backend.EmptyBatch: (StatusCode.INVALID_ARGUMENT, reasons.ERROR_REASON_EMPTY_BATCH, "tensors"),
    backend.Unsupported: (StatusCode.FAILED_PRECONDITION, reasons.ERROR_REASON_UNSUPPORTED, ""),
    backend.OutOfMemory: (StatusCode.RESOURCE_EXHAUSTED, reasons.ERROR_REASON_OUT_OF_MEMORY, ""),
    backend.ModelConfigError: (StatusCode.FAILED_PRECONDITION, reasons.ERROR_REASON_UNSUPPORTED, ""),
    backend.ModelFailed: (StatusCode.INTERNAL, reasons.ERROR_REASON_MODEL_FAILED, ""),
    UnknownModel: (StatusCode.NOT_FOUND, reasons.ERROR_REASON_UNKNOWN_MODEL, ""),
    Unauthenticated: (StatusCode.UNAUTHENTICATED, reasons.ERROR_REASON_UNAUTHENTICATED, ""),
    NotGranted: (StatusCode.PERMISSION_DENIED, reasons.ERROR_REASON_NOT_GRANTED, ""),
    TooManyClones: (StatusCode.RESOURCE_EXHAUSTED, reasons.ERROR_REASON_TOO_MANY_CLONES, ""),
    BadName: (StatusCode.INVALID_ARGUMENT, reasons.ERROR_REASON_BAD_VALUE, "version"),
    UnknownVersion: (StatusCode.NOT_FOUND, reasons.ERROR_REASON_UNKNOWN_VERSION, ""),
    VersionExists: (StatusCode.ALREADY_EXISTS, reasons.ERROR_REASON_VERSION_EXISTS, ""),
    RateLimited: (StatusCode.RESOURCE_EXHAUSTED, reasons.ERROR_REASON_RATE_LIMITED, ""),
    QueueFull: (StatusCode.RESOURCE_EXHAUSTED, reasons.ERROR_REASON_QUEUE_FULL, ""),
    Draining: (StatusCode.UNAVAILABLE, reasons.ERROR_REASON_DRAINING, ""),
    Hung: (StatusCode.UNAVAILABLE, reasons.ERROR_REASON_HUNG, ""),
    ReplicaLost: (StatusCode.UNAVAILABLE, reasons.ERROR_REASON_REPLICA_LOST, ""),
    TimedOut: (StatusCode.DEADLINE_EXCEEDED, reasons.ERROR_REASON_TIMEOUT, ""),
    Stalled: (StatusCode.DEADLINE_EXCEEDED, reasons.ERROR_REASON_STALLED, ""),
}

_RETRY_AFTER_S: dict[type[Exception], float] = {Draining: 0.5, Hung: 2.0, ReplicaLost: 2.0}


def fault(error: Exception) -> Fault:
    """Returns the status that a caller receives for an error. The server's own faults are reported without details."""
    if isinstance(error, StoreUnavailable):
        # The error's own text has the database's address, which callers must not see.
        text = "the server's database is unavailable, so rows cannot be charged nor calls recorded; retry"
        return Fault(StatusCode.UNAVAILABLE, reasons.ERROR_REASON_STORE_UNAVAILABLE, text, retry_after_s=1.0)
    if isinstance(error, BudgetSpent):
        return Fault(StatusCode.RESOURCE_EXHAUSTED, reasons.ERROR_REASON_BUDGET_SPENT, str(error), quota=error.quota)
    if isinstance(error, WireError):
        return Fault(StatusCode.INVALID_ARGUMENT, error.reason, str(error), field="tensors")
    kind = next((kind for kind in type(error).__mro__ if kind in _TABLE), None)
    if kind is not None:
        code, reason, field = _TABLE[kind]
        retry_after_s = error.retry_after_s if isinstance(error, (RateLimited, QueueFull)) else _RETRY_AFTER_S.get(kind)
        return Fault(code, reason, str(error), field, retry_after_s)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Fault(
            StatusCode.RESOURCE_EXHAUSTED,
            reasons.ERROR_REASON_OUT_OF_DISK,
            "the server's disk is full; its operator must make room",
        )
    return Fault(StatusCode.INTERNAL, reasons.ERROR_REASON_SERVER_FAILED, "the server failed; the reason is in its log")
